"""What secrets look like: what they are called, and what some of them are written like."""

import re
from functools import lru_cache

HIDDEN = "***"

# The parts of a name: HF_TOKEN, hf-token, hfToken.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# A name that ends so is a secret's: DB_PASS, OPENAI_KEY, apikey, ROOTPW, OBS_SK, X-Amz-Signature.
_LAST = re.compile(
    r".*(?:token|passw(?:or)?d|passphrase|credentials?"
    r"|(?:secret|(?:api|access|secret|private|auth)key)(?:id)?)"
    r"|(?!old).{2,}pwd|.{2,}pw|authtok|authorization|auth|bearer|cookie|creds|jwt|key|pass|pat|pw|pwd"
    r"|ak|sas|sk|salt|sig|signature"
)
# A name with one of these anywhere, as SECRET_NAME or passwordHash.
_ANYWHERE = {
    "secret",
    "secrets",
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
}
# Words that are a secret's only behind another one.
_PAIRS = {("aws", "session"), *((each, "seed") for each in ("mfa", "otp", "totp", "wallet"))}
# Whose keys and tokens are secrets also where there are several.
_OF_SEVERAL = {"access", "api", "auth", "encryption", "private", "secret"}
# What makes the word behind it another thing: tokens of a text, keys of a table, passes of
# a compiler.
_ORDINARY = {
    "token": {
        "audio", "boi", "bos", "call", "cls", "draft", "end", "eoi", "eos", "eot", "expert",
        "first", "from", "generated", "image", "input", "last", "mask", "next", "output", "pad",
        "prompt",
        "sep", "single", "special", "speculative", "start", "stop", "think", "unexpected", "unk",
        "video", "vision",
    },
    "key": {
        "cache", "dict", "foreign", "group", "index", "layer", "lookup", "metric", "partition",
        "past", "primary", "public", "routing", "sort", "weight",
    },
    "pass": {
        "backward", "compile", "compiler", "custom", "first", "forward", "fusion", "grad", "multi",
        "one", "optimization", "post", "pre", "second", "single",
    },
    "signature": {"call", "function", "kernel", "method", "op", "type"},
}  # fmt: skip
_WORDS_IN_PASS = {
    "bandpass", "bypass", "compass", "encompass", "highpass", "lowpass", "overpass", "subpass",
    "surpass", "trespass", "underpass",
}  # fmt: skip
_COUNTED = {"max", "min", "num", "per"}
# But not what says where a secret is, or tells something about it.
_ABOUT = {
    "bytes", "count", "dir", "directory", "env", "error", "exception", "file", "format", "length",
    "mode", "name", "path", "size", "stdin", "threshold", "timeout", "ttl", "type",
}  # fmt: skip

# Values that are no secret whatever they are called: nothing, what stands for a value (`$NAME`,
# `{{ .Values.key }}`), a special token (`<pad>`), another flag, what was hidden before, and what a
# message says of the secret that it names.
_NOTHING = (
    r"(?i:failed|forbidden|incorrect|invalid|missing|(?:(?:access|permission) )?denied|expired"
    r"|required|rejected|timeout|unauthorized|unset|wrong|not (?:allowed|found|set|valid))(?!\w)"
    r"|secret (?=\")|"
    r"(?i:false|none|no|null|true|yes)(?!\w)|未设置|无|…`?|`?--[a-z][a-z-]{0,60}`?|\*{3,}"
    r"|<[^<>\n]{0,200}>|\$\{?\w{1,100}\}?"
    r"|\$\([^\n]{0,200}\)|\{\{[^{}\n]{0,200}\}\}"
)
_FEW = r"-?\d{1,5}(?:\.\d{1,9})?(?: ?[a-zµ%]{1,3}(?!\w))?"
_NUMBER = r"-?\d{1,7}(?:\.\d{1,40})?(?: ?[a-zµ%/]{1,8}(?!\w))?"
_PATH = r"[/~.][^\s\"']{0,400}"
_WORDS = r"[^\W\d_]{1,16}(?:-[^\W\d_]{1,16}){0,5}(?!\w)"
_HARMLESS = re.compile(rf"(?:{_NOTHING})?+")
_HARMLESS_TOKEN = re.compile(rf"(?:{_NOTHING}|{_NUMBER})?+")  # `"image_token": 151655`
# What is also something else when it stands alone: a directory (PWD=/root), a pass that took 5 s;
# and what is a pattern, a signal or a row of a table too (PAT=*.py, SIG=TERM).
_HARMLESS_ALONE = dict.fromkeys(
    ("pass", "pw", "pwd"), re.compile(rf"(?:{_NOTHING}|{_FEW}|{_PATH})?+")
) | dict.fromkeys(
    ("ak", "pat", "sas", "sig", "signature", "sk"),
    re.compile(rf"(?:{_NOTHING}|{_FEW}|{_WORDS}|[/~.*?^(\[\\][^\s\"']{{0,400}})?+"),
)

# How a message goes on behind the name of a secret: `HF_TOKEN is not set`, `HF_TOKEN 无效`; and
# behind a colon, where the words of a password may stand too: `Missing token: please log in`.
_SAYS = (
    r"are|can(?:not|['’]t)|could(?:n['’]t)?|do(?:es)?(?:n['’]t)?|environment|error|expect(?:ed|s)"
    r"|ha[ds]|have|(?:i|wa)s(?:n['’]t)?|must|needs?|not|parameter|please|requires?|should|unable"
    r"|unbound|were"
)
_SAYS_IN_CHINESE = "(?:不|尚|已|应|必|无|未|没|环境变量|缺|请|过期|错误|需)"
SAID_OF_SECRET = re.compile(
    rf"(?i:{_SAYS}|and|argument|as|at|authentication|by|client|configured|detected|empty|exists"
    r"|field|for|found|from|given|header|in|into|of|on|option|or|provided|specified|takes|to|used"
    rf"|value|variables?|via|which|will|with)(?![\w=+/@-])|{_SAYS_IN_CHINESE}"
)
SAID_BEHIND_COLON = re.compile(
    rf"(?:(?i:{_SAYS}|check|it (?:has|is|must|was)|provide|see|specify|you (?:have|must|need))"
    rf"[ \t]{{1,9}}(?:[a-z]{{1,20}}(?![\w=+/@-])|https?:|[`(<]|--)"
    rf"|{_SAYS_IN_CHINESE}(?=[\u4e00-\u9fff]))"
    r"(?![^\n\"]{0,300}?(?:[A-Za-z]\d|\d[A-Za-z]))"  # no word that looks like a password
)

# What is a secret wherever it stands, by the beginnings that services give to theirs: Hugging
# Face, OpenAI, GitHub, GitLab, Slack, AWS, Alibaba, Tencent, ModelScope, Google, npm, PyPI, Docker
# Hub, NVIDIA, Stripe, Groq, Replicate, xAI, Perplexity, Tavily, Weights & Biases, DigitalOcean,
# SendGrid, age; JSON web tokens; private keys, to their end or that of the text; what is behind
# the address of a webhook; the user in a URL; a password between user and host; what stands behind
# `Bearer`.
# Each begins with fixed letters, which `re` finds fast in much text.
_WORD = "[A-Za-z0-9_-]"
_SHAPES = tuple(
    re.compile(shape)
    for shape in (
        # Names of folders begin like these too, so one run of letters and digits must be long.
        rf"(?P<secret>sk-{_WORD}{{0,40}}?(?=[A-Za-z]{{0,60}}\d)[A-Za-z0-9]{{16,}}+{_WORD}*+)",
        r"(?P<secret>(?:hf|npm)_[A-Za-z0-9]{16,}+)(?![_-])",
        *(rf"(?P<secret>gh{kind}_{_WORD}{{16,}}+)" for kind in "opsur"),
        *(
            rf"(?P<secret>{begin}{_WORD}{{16,}}+)"
            for begin in ("github_pat_", "glpat-", "pypi-Ag", "dckr_pat_", "nvapi-")
        ),
        *(rf"(?P<secret>{begin}{_WORD}{{20,}}+)" for begin in ("tvly-", "wandb_v1_")),
        *(
            rf"(?P<secret>{begin}[A-Za-z0-9]{{20,}}+)"
            for begin in ("sk_live_", "rk_live_", "gsk_", "r8_", "xai-", "pplx-", "dop_v1_")
        ),
        rf"(?P<secret>xox[a-z]-{_WORD}{{8,}}+)",
        r"(?P<secret>AGE-SECRET-KEY-1[0-9A-Z]{20,}+)",
        rf"(?P<secret>SG\.{_WORD}{{16,64}}+\.{_WORD}{{32,}}+)",
        *(rf"(?P<secret>{begin}[A-Z0-9]{{16}})" for begin in ("AKIA", "ASIA")),
        *(rf"(?P<secret>{begin}[A-Za-z0-9]{{12,40}}+)" for begin in ("LTAI", "AKID")),
        r"(?P<secret>ms-[0-9a-f]{8}-[0-9a-f-]{27})",
        rf"(?P<secret>AIza{_WORD}{{35}})",
        rf"(?P<secret>ya29\.{_WORD}{{20,}}+)",
        rf"(?P<secret>eyJ{_WORD}{{8,1024}}+\.{_WORD}{{8,4096}}+(?:\.{_WORD}*+)?)",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?P<secret>(?:[^-]|-(?!----))*+)",
        r"hooks\.slack\.com/[a-z]{1,20}/(?P<secret>[^\s\"'<>]++)",
        r"/open-apis/bot/v2/hook/(?P<secret>[^\s\"'<>]++)",
        r"/api/webhooks/(?P<secret>[^\s\"'<>]++)",
        r"/webhook/send\?key=(?P<secret>[^\s\"'<>&]++)",
        # A word may be harmless under these names, but not in the query of a URL.
        r"[?&](?i:ak|pat|sig|signature|sk)=(?P<secret>[^\s\"'<>&]++)",
        r"://(?P<secret>[^/\s@\"'<>]{1,400}+(?:@[^/\s@\"'<>]{1,400}+(?=@))*+)@",
        # A password with a slash, as keys of S3 have; no port with a path behind it.
        r"://(?P<secret>[^/\s:@\"'<>]{1,400}+:(?!\d{1,5}/)[^\s:@\"'<>]{1,400}+)@",
        # Not `image:tag@sha256:…`, `mailto:me@host`, nor a number.
        r"(?<=[\w-]):(?<!mailto:)(?<!sip:)(?!\d{1,5}@)(?P<secret>[^\s:/@\"'<>,;]{1,400}+)"
        r"@(?!sha\d)(?=[A-Za-z0-9\[(]|/\w)",
        r"Bearer (?P<secret>[^\s\"',]{6,}+)",
    )
)
# Within a word, as in `task-…`, not behind a newline in JSON or an equals sign in a URL.
_IN_WORD = re.compile(r"[^\W_]\Z(?<!\\[nrt])(?<!\\u00[0-9a-fA-F]{2})(?<!%[0-9A-F]{2})")
# A word that looks like a password: letters of both cases and digits, or many digits of hex.
_RUN = r"[^\s\"'`,;:./\\_-]"
LOOKS_SECRET = re.compile(
    rf"[\"'`]?(?:(?={_RUN}{{0,60}}?[A-Z])(?={_RUN}{{0,60}}?[a-z])(?={_RUN}{{0,60}}?\d){_RUN}{{8}}"
    r"|[0-9a-f]{16})"
)


def without_secret_shapes(text: str) -> str:
    """Return the text with `HIDDEN` in place of everything that is written like a secret."""

    def hide(match: re.Match[str]) -> str:
        begin, end = match.span("secret")
        if begin == match.start() and _IN_WORD.search(match.string[max(0, begin - 7) : begin]):
            return match[0]
        return match.string[match.start() : begin] + HIDDEN + match.string[end : match.end()]

    for shape in _SHAPES:
        text = shape.sub(hide, text)
    return text


def of_key(word: str, name: str) -> bool:
    """Return whether the word before a name says whose or what it is: `api key`, `first token`."""
    word, name = word.lower(), name.lower()
    return (name in ("key", "keys") and word in _OF_SEVERAL) or word in _ORDINARY.get(name, ())


def is_secret_name(name: str) -> bool:
    """Return whether a variable, flag or key of this name may hold a secret."""
    return harmless_values(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Return whether this value of a variable, flag or key of this name is a secret."""
    harmless = harmless_values(name)
    return harmless is not None and harmless.fullmatch(value.strip()) is None


@lru_cache(maxsize=4096)
def harmless_values(name: str) -> re.Pattern[str] | None:
    """Return what the harmless values of this name match; None where no value is a secret.

    The pattern reads a bounded part of a text.
    """
    parts = [part.lower() for part in _PART.findall(name)]
    while parts and (parts[-1].isdigit() or (len(parts) > 1 and parts[-1] in ("id", "value"))):
        parts.pop()  # AWS_ACCESS_KEY_ID, TOKEN_2, token_value
    if not parts or parts[-1] in _ABOUT:
        return None
    if re.fullmatch(".{2,}pass", parts[-1]) and parts[-1] not in _WORDS_IN_PASS:
        parts[-1:] = parts[-1].removesuffix("pass"), "pass"  # SSHPASS, prepass
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if last == "key" and not before and not name.isupper():
        return None  # `key: serve.context`, `"Key": "Name", "Value": …`
    if parts[0] in ("expired", "invalid", "missing") and name[0].isupper() and not name.isupper():
        return None  # `InvalidAccessKeyId: …`, an error
    if before in _ORDINARY.get(last, ()) or (last == "token" and not _COUNTED.isdisjoint(parts)):
        return None
    if not before and last in _HARMLESS_ALONE:
        return _HARMLESS_ALONE[last]
    several = last in ("keys", "tokens") and before in _OF_SEVERAL
    if several or _LAST.fullmatch(last) or (before, last) in _PAIRS:
        return _HARMLESS_TOKEN if last.endswith("token") else _HARMLESS
    return None if _ANYWHERE.isdisjoint(parts) else _HARMLESS
