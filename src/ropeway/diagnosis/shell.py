"""Read what people paste beside an error: `id`, `grep Cap /proc/1/status`, `capsh --print`,
`docker inspect`, `ls -l /dev/davinci*`, `ls /usr/local/Ascend/driver`, `env`. It says which of
several known causes it is.
"""

import re
from collections.abc import Mapping

from ropeway.diagnosis.result import Text
from ropeway.spec.secret_shapes import is_secret
from ropeway.spec.secret_text import without_secrets

_DEVICE = r"/dev/(?:davinci\w+|devmm_svm|hisi_hdc)"
_DRIVER = "/usr/local/Ascend/driver"
_LIBRARY = "libascend_hal.so"
_PATTERNS = (
    re.compile(r"(?P<key>Cap(?:Eff|Bnd)):\s*(?P<value>[0-9a-f]{8,16})$"),
    re.compile(r"^(?P<key>Current:) ?(?P<value>(?:=|cap_).{0,2000})$"),
    re.compile(r"(?P<key>uid=)(?P<value>\d+\S*.{0,400})$"),
    re.compile(
        rf"(?P<value>c[rwx-]{{9}}[.+@]? +\d+ +\S+ +\S+) +\d+, *\d+ .{{0,40}}(?P<key>{_DEVICE})$"
    ),
    re.compile(
        r"^(?:export |declare -x |- |-e )?"
        r"(?P<key>(?:HCCL|ASCEND|GLOO|TP_SOCKET|RAY|VLLM|PYTORCH_NPU|OMP|LD_LIBRARY)_\w{2,60})"
        r"=['\"]?(?P<value>[^\s'\"]{1,200})['\"]?$"
    ),
)
# Capabilities taken and given by `docker inspect`, Compose, Kubernetes, `docker run`; a list may
# go on in the lines below.
_CAPABILITIES = re.compile(
    r"(?:\bCap|\bcap_|--cap-|^(?:- )?(?=(?:drop|add): ?(?:\[|$)))"
    r"(?P<way>[Dd]rop|[Aa]dd)\b['\"]?(?P<value>[:= ] ?[^-\n]{0,200}|$)"
)
_CAPABILITY = re.compile(r"(?:- )?['\"]?(?P<value>ALL|(?:CAP_)?DAC_OVERRIDE)['\"]?,?")
_MISSING = re.compile(
    r"(?:cannot (?:access|statx?)|无法访问|^(?:ls|cat|find):) ?[‘'\"]?"
    rf"(?P<key>{_DEVICE}|/dev/davinci\*"
    rf"|{_DRIVER}(?:/version\.info|/lib64(?:/(?:common|driver)(?:/{re.escape(_LIBRARY)})?)?)?/?)"
    r"['’\"]?[:：] ?(?:No such file|没有那个文件)"
)
# As `find` or `ls -l` prints it, on a line of its own.
_LISTED = re.compile(
    rf"(?:[-l][rwxst-]{{9}}.{{1,100}} )?(?P<path>(?:/\S{{0,200}}/)?{re.escape(_LIBRARY)})"
    r"(?: -> \S{1,200})?"
)
# What the scan of a log looks for, to ask `read_shown` about the line.
FRAGMENTS = (
    "CapEff", "CapBnd", "/dev/davinci", "/dev/devmm", "/dev/hisi", "uid=", "HCCL_", "GLOO_",
    "ASCEND_", "TP_SOCKET_", "RAY_", "VLLM_", "PYTORCH_NPU_", "LD_LIBRARY_", "Current: ",
    "CapDrop", "CapAdd", "cap_drop", "cap_add", "--cap-", "drop:", "dd:", "ALL", "DAC_OVERRIDE",
    _LIBRARY,
)  # fmt: skip
_DAC_OVERRIDE = 1 << 1
_MAX_SHOWN = 200
_LONGEST_LIST = 200


def read_shown(message: str, shown: dict[str, str]) -> None:
    """Add what a line of a shell's output shows to `shown`: the first value of each."""
    for pattern in _PATTERNS:
        match = pattern.search(message) if len(shown) < _MAX_SHOWN else None
        if match and not is_secret(match["key"], match["value"]):
            shown.setdefault(match["key"], without_secrets(match["value"]))
    if missing := _MISSING.search(message):
        shown.setdefault(missing["key"], "missing")
    if listed := _LISTED.fullmatch(message):
        shown.setdefault(_LIBRARY, listed["path"])
    _read_capabilities(message, shown)


def is_shown(message: str) -> bool:
    """Return whether a line fails only to show what it was asked for, which `read_shown` reads."""
    return _MISSING.search(message) is not None


def _read_capabilities(message: str, shown: dict[str, str]) -> None:
    """Add what a container takes and gives to `--cap-drop` and `--cap-add` of `shown`."""
    found = [
        (f"--cap-{match['way'].lower()}", match["value"])
        for match in _CAPABILITIES.finditer(message)
    ]
    if "--cap" in shown and (item := _CAPABILITY.fullmatch(message)):
        found = [(shown["--cap"], item["value"])]
    for way, value in found:
        shown["--cap"] = way
        shown[way] = f"{shown.get(way, '')} {value.strip(': =,')}"[:_LONGEST_LIST].strip()


def conditions(shown: Mapping[str, str]) -> dict[str, Text]:
    """Return what holds by what is shown, with the evidence: the names rows have in `layout`."""
    return {**_of_driver(shown), **_of_devices(shown)}


def _of_driver(shown: Mapping[str, str]) -> dict[str, Text]:
    """Return whether the driver's libraries are there."""
    missing = [path for path in shown if path.startswith(_DRIVER) and shown[path] == "missing"]
    if missing:
        return {"driver-missing": Text(f"{missing[0]} is not there", f"缺少 {missing[0]}")}
    if _LIBRARY in shown:
        path = shown[_LIBRARY]
        return {"driver-there": Text(f"{path} is there", f"{path} 存在")}
    return {}


def _of_devices(shown: Mapping[str, str]) -> dict[str, Text]:
    """Return whether the device files are there, and who may open them."""
    files = {key: value for key, value in shown.items() if key.startswith("/dev/")}
    missing = [path for path, value in files.items() if value == "missing"]
    if missing:
        return {"device-files-missing": Text(f"{missing[0]} is not there", f"缺少 {missing[0]}")}
    closed = [path for path, value in files.items() if not _open(value, shown.get("uid=", ""))]
    user = shown.get("uid=", "0").partition("(")[0].partition(" ")[0]
    capable, capabilities = _may_override(shown)
    if closed and not capable:
        said = f"{closed[0]}: {files[closed[0]]}"
        if user != "0":
            return {"device-files-closed": Text(f"{said}; uid {user}", f"{said}；uid 为 {user}")}
        if capable is None:
            return {}
        capabilities = f"{capabilities}; {said}"
    if capable is False and user == "0" and (closed or not files):
        return {"capabilities-dropped": Text(capabilities, capabilities)}
    whole = {"/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"} <= files.keys()
    if whole and any(re.fullmatch(r"/dev/davinci\d+", path) for path in files):
        what = Text("all device files are there, and open to this user", "设备文件齐全且可访问")
        return {"device-files-open": what}
    return {}


def _may_override(shown: Mapping[str, str]) -> tuple[bool | None, str]:
    """Return whether root may open files of others (CAP_DAC_OVERRIDE), and what shows it; None
    where nothing does.
    """
    if "CapEff" in shown:
        return bool(int(shown["CapEff"], 16) & _DAC_OVERRIDE), f"CapEff {shown['CapEff']}"
    if "Current:" in shown:
        effective = False
        for names, way, flags in _CLAUSE.findall(shown["Current:"]):
            if names not in ("", "all") and "cap_dac_override" not in names:
                continue
            kept = effective and way != "="
            effective = kept if "e" not in flags else way != "-"
        return effective, f"capsh: {shown['Current:'][:60]}"
    if taken := _OVERRIDE.search(shown.get("--cap-drop", "")):
        return bool(_OVERRIDE.search(shown.get("--cap-add", ""))), f"--cap-drop {taken[0]}"
    return None, ""


# `=ep cap_sys_admin-ep`, `cap_chown,cap_kill+eip`: see cap_from_text(3).
_CLAUSE = re.compile(r"([\w,]*)([=+-])([eip]*)")
_OVERRIDE = re.compile(r"\bALL\b|DAC_OVERRIDE")


def variables_in(words: str, shown: Mapping[str, str]) -> list[Text]:
    """Return the variables that these words name and the logs set: `HCCL_BUFFSIZE=200`."""
    names = [name for name in shown if name in re.findall(r"\w+", words)]
    return [Text(f"{each}={shown[each]}", f"{each}={shown[each]}") for each in names]


def _open(listed: str, user: str) -> bool:
    """Return whether `crw-rw---- 1 root HwHiAiUser` may be read and written by what `id` says."""
    mode, _, owner, group = listed.split()
    ids = re.findall(r"(\d+)(?:\(([^)]*)\))?", user or "0(root)")
    uid, groups = ids[0], {name for pair in ids[1:] or ids for name in pair}
    return (
        (owner in uid and mode[1:3] == "rw")
        or (group in groups and mode[4:6] == "rw")
        or mode[7:9] == "rw"
    )
