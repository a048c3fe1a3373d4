"""What runs at the other end of SSH: a POSIX shell script between the connection and the command.

sshd alone does not do what Host.run promises. It loses the exit code 255 (which is also ssh's own),
it leaves the command running when the connection breaks, and it hands over whatever part of the
input has arrived. So the login shell is replaced by `sh` with the script below, which needs no more
than a busybox system has.

**Framing.** The script prints a mark, a random word that no output contains, on stdout and stderr
before and after the command's own bytes, and after the last mark the exit code. What the login
shell prints before that, from a .bashrc say, is kept apart as the preamble (`Framed`).

**Input.** The command gets its input only when all of it has arrived: a broken connection gives no
command half of its input. The input is held in memory, by a `tail -c`, so that a full disk does not
matter. That `tail` ignores SIGTERM, and is stopped together with the command before both are
killed: to the command its end would look like the end of the input.

**End of the connection.** The script keeps reading after the input. When that ends, the connection
has, whatever the cause; then the script ends the command, its descendants, and the sessions they
lead: SIGTERM first, and SIGKILL after two seconds. It keeps the output open meanwhile, so that we
can wait for it. Only a process that has got away on purpose stays: a daemon with a session of its
own and no parent of ours.

**Timeout.** A connection that dies in silence (no power, no route) has no end that the host could
read. So the script also ends the command by itself, some seconds after the timeout.

**Session.** The command runs in a session of its own (`setsid`; where that is missing, in sshd's),
so that a command which signals its own process group does not hit the script.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from ropeway.hosts.base import Command, shell_line
from ropeway.hosts.child import Output

# What follows the mark: the command's bytes begin; all input has arrived; they end.
_BEGIN, _INPUT, _END = b"b", b"f", b"e"
# After the timeout we need a moment to end the command ourselves and to get its output.
_GRACE_SECONDS = 10
_LONGEST_SECONDS = 10**8  # three years; a 32-bit `sleep` takes no more than 2^31

Verdict = int | Literal["missing", "lost"]
_WORDS: Mapping[bytes, Verdict] = {b"missing": "missing"}

# Names start with `_`, so that none is a variable of the command. There is no single quote and no
# backslash, so that what the login shell gets is readable and means the same to fish.
#   fd 3  the connection's input         5, 6  the connection's outputs
#   fd 4  notes to the shell itself: assignments that it evaluates when the pipeline has ended
# _look    finds the command's processes, by parent and by session; _end ends them
# _watch   hands over the input, then waits for the end of the connection
# _limit   waits for the timeout
_SCRIPT = """
_mark=$1$2 _seconds=$3 _bytes=$4; shift 4
exec 3<&0 5>&1 6>&2 </dev/null
_say() { printf %s%s "$_mark" "$1"; }
_say b; _say b >&2
exec 2>/dev/null
_look() {
  _alive=
  for _file in /proc/[0-9]*/stat; do
    read -r _line <$_file || continue
    _pid=${_line%% *}; set -- ${_line##*) }
    case $_ours in
      *" $_pid "*) ;;
      *" $2 "*|*" $4 "*) _ours="$_ours$_pid ";;
      *) continue;;
    esac
    [ $1 = Z ] || [ $_pid = $_me ] || _alive="$_alive $_pid"
  done
}
_end() {
  trap "" TERM
  read -r _me _line </proc/self/stat
  _ours=" $$ " _signal=TERM _turn=0
  while _look; _look; [ "$_alive" ] && [ $_turn -lt 25 ]; do
    [ $_turn -lt 20 ] || { _signal=KILL; kill -s STOP $_alive; }
    kill -s $_signal $_alive
    sleep 0.1 || sleep 1
    _signal=0 _turn=$((_turn + 1))
  done
  exit
}
_watch() {
  trap "" PIPE
  exec <&3 4>&-
  if [ $_bytes != 0 ]; then
    head -c $_bytes
    _say f >&6
    read -r _line || _end
  fi
  exec >&-
  while read -r _line; do :; done
  _end
}
_wake() { kill -s KILL $!; exit; }
_limit() {
  trap _wake TERM
  sleep $_seconds &
  wait $!
  _end
}
_limit & _limit=$!
_session=; command -v setsid >/dev/null && _session=setsid
eval "$(
  {
    { _watch & echo _watch=$! >&4; } |
    { [ $_bytes = 0 ] || { trap "" TERM; exec tail -c $_bytes 4>&- 5>&- 6>&-; }; } |
    {
      if command -v "$1" >/dev/null
      then (exec $_session "$@" 2>&6 >&5 3<&- 4>&- 5>&- 6>&-); echo _code=$? >&4
      else echo _code=missing >&4
      fi
    }
  } 4>&1
)"
kill $_limit $_watch
_say "e${_code-lost}
" >&6
_say "e
" >&5
"""


def remote_line(
    argv: Sequence[str],
    *,
    mark: str,
    stdin_bytes: int = 0,
    timeout: float,
) -> str:
    """Return the line for the host's login shell: the script above with a command.

    mark         a word that no output contains; sent in two halves, so that not even the list of
                 processes contains it
    stdin_bytes  the length of the input, after which the script waits for one more line
    """
    half = len(mark) // 2
    seconds = min(math.ceil(timeout) + _GRACE_SECONDS, _LONGEST_SECONDS)
    parameters = (mark[:half], mark[half:], str(seconds), str(stdin_bytes))
    script = ("sh", "-c", _SCRIPT.strip(), "ropeway", *parameters, *argv)
    return f"exec {shell_line(Command(script))}"


class Framed:
    """One of the two outputs of the script, parsed as it comes.

    preamble   what came before the script, from the login shell or from ssh
    started    whether the script has started
    has_input  whether all input has arrived there
    verdict    the command's exit code, `missing` when there is no such program, `lost` when the
               script does not know it; None while the command runs (and always on stdout)
    """

    def __init__(self, mark: str, output: Output) -> None:
        self.preamble = Output(output.where)
        self.started = self.has_input = self.ended = False
        self.verdict: Verdict | None = None
        self.output = output
        self._mark = mark.encode()
        self._pending = b""  # the beginning of a mark, perhaps

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes; `b""` means the end."""
        data = self._pending + chunk
        while not self.ended:
            content, mark, rest = data.partition(self._mark)
            if not mark:
                safe = len(data) - _overlap(data, self._mark) if chunk else len(data)
                self._pass_on(data[:safe])
                self._pending = data[safe:]
                break
            self._pass_on(content)
            if not self._note(rest):
                self._pending = mark + rest
                break
            data = rest[1:]
        if self.ended or not chunk:
            self.output.feed(b"")

    def _note(self, rest: bytes) -> bool:
        """Parse what follows a mark; return False when it is incomplete."""
        if rest[:1] == _END:
            word, newline, _ = rest[1:].partition(b"\n")
            if not newline:
                return False
            self.ended = True
            if word:
                self.verdict = int(word) if word.isdigit() else _WORDS.get(word, "lost")
        self.started = self.started or rest[:1] == _BEGIN
        self.has_input = self.has_input or rest[:1] == _INPUT
        return bool(rest)

    def _pass_on(self, content: bytes) -> None:
        if content:
            (self.output if self.started else self.preamble).feed(content)


def _overlap(data: bytes, mark: bytes) -> int:
    """Return how many of the last bytes may be the beginning of a mark."""
    longest = min(len(data), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if data.endswith(mark[:n])), 0)
