"""What runs on the other side of SSH: a POSIX shell between the connection and the command.

sshd alone loses the exit code 255 (that is also ssh's own), and leaves the command running when the
connection breaks. So the login shell is replaced by `sh` with the script below. It needs no more
than a busybox system has, and

- says on both outputs where the command's own bytes begin and end, and at last its exit code;
  what the login shell prints before that, from a .bashrc say, is kept apart;
- hands over the command's input only when all of it has arrived, and in memory: a broken
  connection gives no command half of its input, and a full disk does not matter. (`tail` is what
  holds it. It ignores SIGTERM, and is stopped together with the command before both are killed:
  its end would look to the command like the end of the input);
- runs the command in a session of its own (`setsid`; where there is none, in that of sshd), so that
  a command which signals its own group does not hit the script;
- reads on after the input. The connection's end, whatever the cause, is the end of what it reads:
  then it ends the command, its descendants and the sessions they lead, asking first (SIGTERM) and
  after two seconds no more (SIGKILL). Only what has got away on purpose, a daemon with a session
  and no parent of ours, stays. It holds the output open meanwhile, so that we can wait for it;
- does the same by itself some seconds after the time limit: a connection that dies in silence (no
  power, no route) has no end that the host could read.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from ropeway.hosts.base import Command, shell_line
from ropeway.hosts.child import Output

# What the script prints between the two halves of its mark and a command's own bytes.
_BEGIN, _FED, _END = b"b", b"f", b"e"
# After the time limit we still need a moment to end the command ourselves, with its output.
_GRACE_SECONDS = 10
_LONGEST_SECONDS = 10**8  # three years; a 32-bit `sleep` takes no more than 2^31

Verdict = int | Literal["missing", "lost"]
_WORDS: Mapping[bytes, Verdict] = {b"missing": "missing"}

# Names start with `_`, so that none of them is one that the command is given. No quote and no
# backslash, so that what the login shell gets is readable, and means the same to fish.
#   fd 3 the connection's input, 4 notes for the shell itself, 5 and 6 the connection's outputs
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
      while [ "$1" != -- ]; do export "$1"; shift; done; shift
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
    env: Mapping[str, str] | None = None,
    stdin_bytes: int = 0,
    timeout: float,
) -> str:
    """The one line that the host's login shell gets: the script above, and the command for it.

    `mark` is a word that no output contains. It goes there in two halves, so that it does not even
    stand in a list of processes. After `stdin_bytes` of input the script waits for one more line.
    """
    half = len(mark) // 2
    seconds = min(math.ceil(timeout) + _GRACE_SECONDS, _LONGEST_SECONDS)
    given = (mark[:half], mark[half:], str(seconds), str(stdin_bytes))
    variables = [f"{name}={value}" for name, value in (env or {}).items()]
    script = ("sh", "-c", _SCRIPT.strip(), "ropeway", *given, *variables, "--", *argv)
    return f"exec {shell_line(Command(script))}"


class Framed:
    """One of the two outputs of the script, taken apart as it comes.

    before   what came before the script: the login shell's words, or ssh's
    begun    whether the script has begun
    fed      whether all input has arrived there
    verdict  the command's exit code, `missing` when there is no such program, `lost` when the
             script does not know it; None as long as the command has not ended (and on stdout)
    """

    def __init__(self, mark: str, output: Output) -> None:
        self.before = Output(output.where)
        self.begun = self.fed = self.ended = False
        self.verdict: Verdict | None = None
        self.output = output
        self._mark = mark.encode()
        self._held = b""  # what may turn out to be a mark

    def hear(self, chunk: bytes) -> None:
        """The next bytes; none at the end."""
        data = self._held + chunk
        while not self.ended:
            content, mark, rest = data.partition(self._mark)
            if not mark:
                sure = len(data) - _overlap(data, self._mark) if chunk else len(data)
                self._pass_on(data[:sure])
                self._held = data[sure:]
                break
            self._pass_on(content)
            if not self._note(rest):
                self._held = mark + rest
                break
            data = rest[1:]
        if self.ended or not chunk:
            self.output.hear(b"")

    def _note(self, rest: bytes) -> bool:
        """Read what follows a mark; False when it is not all there."""
        if rest[:1] == _END:
            word, newline, _ = rest[1:].partition(b"\n")
            if not newline:
                return False
            self.ended = True
            if word:
                self.verdict = int(word) if word.isdigit() else _WORDS.get(word, "lost")
        self.begun = self.begun or rest[:1] == _BEGIN
        self.fed = self.fed or rest[:1] == _FED
        return bool(rest)

    def _pass_on(self, content: bytes) -> None:
        if content:
            (self.output if self.begun else self.before).hear(content)


def _overlap(data: bytes, mark: bytes) -> int:
    """How many of the last bytes may be the begin of a mark."""
    longest = min(len(data), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if data.endswith(mark[:n])), 0)
