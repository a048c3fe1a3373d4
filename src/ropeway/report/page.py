"""The one way in which pages are made of templates: everything from outside is escaped."""

from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(
    template: str, filters: Mapping[str, Callable[..., object]], /, **values: object
) -> str:
    """The page of a template of this folder. `filters` are its functions, by their names in it; a
    value that it asks for and that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("ropeway.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(values)
