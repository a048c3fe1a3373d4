"""Files on a host: many in one round trip, whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from ropeway.hosts.base import Host, cannot_write

# $1 the folder that the files lie in, $2 another one to make, $3 the bytes of all files together,
# which come one behind the other on stdin; then for each file its name, mode and size. Drafts are
# complete before the first one takes its place: a full disk or a lost connection changes nothing.
WRITE = """
LC_ALL=C; export LC_ALL
folder=$1
mkdir -p -m 700 -- "$1" "$2" && draft=$(mktemp -d "$1/.draft.XXXXXX") || exit
trap 'rm -rf "$draft"' EXIT
trap 'exit 1' TERM HUP INT
cat >"$draft/all" && [ "$(wc -c <"$draft/all")" -eq "$3" ] || exit
shift 3
draw() {
  begin=1
  while [ $# -gt 0 ]; do
    tail -c +$begin "$draft/all" | head -c "$3" >"$draft/$1" &&
      [ "$(wc -c <"$draft/$1")" -eq "$3" ] && chmod "$2" "$draft/$1" || return
    begin=$((begin + $3)); shift 3
  done
}
place() {
  while [ $# -gt 0 ]; do mv -f "$draft/$1" "$folder/$1" || return; shift 3; done
}
draw "$@" && place "$@"
"""


@dataclass(frozen=True)
class Draft:
    """A file to write: its name in the folder, its content, its permissions."""

    name: str
    content: bytes
    mode: int = 0o644


def write_files(host: Host, folder: str, files: Sequence[Draft], *, also_make: str) -> None:
    """Write files into a folder of a host, which is made if it is not there, as is `also_make`.

    The contents go over the connection's input, so that a secret stands in no list of processes.
    Raises HostError; then no file has changed.
    """
    content = b"".join(file.content for file in files)
    table = (
        word for file in files for word in (file.name, f"{file.mode:o}", str(len(file.content)))
    )
    argv = ("sh", "-c", WRITE, "sh", folder, also_make, str(len(content)), *table)
    result = host.run(argv, stdin=content, timeout=600.0)
    if not result.ok:
        last = next(reversed(result.stderr.strip().splitlines()), "")
        reason = last.rpartition(": ")[2].lower() or "it does not say why"
        raise cannot_write(f"{folder}/", reason, host.name)
