"""How pages are made from templates: values are escaped, and texts are in both languages."""

import re
from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ropeway.report.chinese import in_language

# A blank between two texts that come in both languages, which Chinese punctuation has no use for.
_BLANK = re.compile(
    r'([。：；，]</span>(?:</[a-z]+>)*) ((?:<span class="[a-z]+">)?<span lang="en">)'
)


def render_page(
    template: str, filters: Mapping[str, Callable[..., object]], /, **values: object
) -> str:
    """Render a template of this folder, which extends `_page.html.j2`, to a whole HTML page.

    `filters` are the functions that the template uses, by their names in it, besides `zh` and
    `both`, which translate a text that comes with the result. A value that the
    template asks for and that is not given raises jinja2's `UndefinedError`.
    """
    environment = Environment(
        loader=PackageLoader("ropeway.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"zh": _in_chinese, "both": _both, **filters}
    environment.globals["t"] = in_both_languages
    return _BLANK.sub(r"\1\2 ", environment.get_template(template).render(values))


def _in_chinese(text: str) -> str:
    return in_language(text, "zh")


def _both(text: str) -> Markup:
    return in_both_languages(text, _in_chinese(text))


def literals(text: str) -> Markup:
    """Return a text as HTML, escaped; what is to be typed, between backticks, as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def prose(text: str) -> Markup:
    """Return a sentence in both languages as HTML, what is to be typed as code."""
    return in_both_languages(literals(text), literals(_in_chinese(text)))


def in_both_languages(english: object, chinese: object) -> Markup:
    """Return both texts as HTML, escaped; the page shows the one of the language chosen."""
    return Markup('<span lang="en">{}</span><span lang="zh-Hans">{}</span>').format(
        english, chinese
    )
