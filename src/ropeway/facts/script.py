"""Many questions to one host in one round trip: a script for its `sh`, and its answer taken apart.

The script is a short prelude and then one line for each question:

    ask 20 os-release cat /etc/os-release
    each npu 20 npu-smi-board npu-smi info -t board -i N
    each device 20 hccn-ip hccn_tool -i N -ip -g
    after docker-version ask 30 docker-images docker image ls

`after` and `unless` ask only when the question of that key ended well, or did not. `each` asks once
for every NPU that `npu-smi info -l` lists (`npu`), or for every /dev/davinciN (`device`), so that
the numbers need no round trip of their own. The commands run one after another: npu-smi and
hccn_tool refuse to run beside themselves. Every answer stands in a frame that starts with a word
nobody else prints; what a command prints cannot be mistaken for it.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ropeway.facts.question import Question
from ropeway.facts.text import parse_int

NOT_FOUND = 127  # what `sh` says of a command that is not there
TIMED_OUT = 124  # what `timeout` says


@dataclass(frozen=True)
class Pings:
    """NPU `device` pings these RoCE addresses, one after another. The answers' key is `ping`."""

    device: int
    addresses: tuple[str, ...]
    limit: int = 10

    def line(self) -> str:
        """Return its line of the script."""
        return f"pings {self.limit} {self.device} {' '.join(map(shlex.quote, self.addresses))}"


@dataclass(frozen=True)
class Answer:
    """What one command printed, errors included, and its exit code.

    key        the question's
    number     of the NPU or device, with `each` and `Pings`
    address    that was pinged
    exit_code  None when the answer was cut off in the middle
    """

    key: str
    number: int | None
    address: str | None
    exit_code: int | None
    text: str


# `command -v` first: a missing program is an answer, and must not look like a program that fails.
# Programs of the driver are in places that a non-interactive shell does not search. One that locks
# (`hccn_tool is busy`) is asked again.
_PRELUDE = """\
F={frame}
W=
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/usr/local/Ascend/driver/tools
T=; command -v timeout >/dev/null 2>&1 && timeout 1 true 2>/dev/null && T=timeout
run() {{
  l=$1; shift
  command -v "$1" >/dev/null 2>&1 || return 127
  ${{T:+$T $l}} "$@" </dev/null 2>&1
}}
ask() {{
  l=$1 k=$2; shift 2
  printf '\\n%s %s\\n' "$F" "$k"
  case $1 in
    hccn_tool)
      for t in 1 2 3; do
        o=$(run "$l" "$@"); e=$?
        case $o in *"is busy"*) sleep 1;; *) break;; esac
      done
      printf '%s\\n' "$o";;
    *) run "$l" "$@"; e=$?;;
  esac
  printf '\\n%s = %s\\n' "$F" "$e"
  [ "$e" = 0 ] && W="$W $k "
}}
after() {{ case $W in *" $1 "*) shift; "$@";; esac; }}
unless() {{ case $W in *" $1 "*) ;; *) shift; "$@";; esac; }}
numbers() {{
  case $1 in
    npu) run 20 npu-smi info -l |
      sed -n 's/^[[:space:]]*NPU ID[[:space:]]*:[[:space:]]*\\([0-9][0-9]*\\).*/\\1/p';;
    device) ls /dev 2>/dev/null | sed -n 's/^davinci\\([0-9][0-9]*\\)$/\\1/p' | sort -n;;
  esac
}}
each() {{
  w=$1 L=$2 K=$3; shift 3
  eval "s=\\${{S_$w-}}"
  if [ -z "$s" ]; then s=$(numbers "$w"); s=${{s:-none}}; eval "S_$w=\\$s"; fi
  [ "$s" = none ] && return
  for n in $s; do
    (for a; do shift; [ "$a" = N ] && a=$n; set -- "$@" "$a"; done; ask "$L" "$K:$n" "$@")
  done
}}
pings() {{
  l=$1 d=$2; shift 2
  for a; do ask "$l" "ping:$d:$a" hccn_tool -i "$d" -ping -g address "$a"; done
}}
"""
START = "# questions"


def script(questions: Iterable[Question[object] | Pings], frame: str) -> str:
    """Return the script. `frame` is a word of letters and digits that no output contains."""
    lines = (question.line() for question in questions)
    return "\n".join([_PRELUDE.format(frame=frame) + START, *lines, ""])


def answers(output: str, frame: str) -> Iterator[Answer]:
    """Yield the frames of the script's output, in order. What stands outside of them is ignored."""
    pieces = output.split(f"\n{frame} ")[1:]
    for piece, after in zip(pieces, [*pieces[1:], ""], strict=False):
        if piece.startswith("= "):
            continue
        head, _, text = piece.partition("\n")
        key, _, rest = head.partition(":")
        number, _, address = rest.partition(":")
        ended = after[2:].partition("\n")[0] if after.startswith("= ") else ""
        yield Answer(key, parse_int(number), address or None, parse_int(ended), text)
