"""What the hosts' own shells do for a push: look, lend a key, hold, admit, verify, move, undo.

Each is a POSIX script with positional arguments, so that no path is ever part of a script's text.
Beside `sh` they need rsync, OpenSSH, GNU find and stat, flock and sha256sum or openssl.

Nothing that we put there outlives us. While a push runs, `HOLD` runs on every host. It ends when
the connection does, whatever the cause, and takes everything back on its way; `UNDO` is run again
at the end, to know that it has.
"""

STAGE = ".ropeway-push"
TOOLS = ("rsync", "ssh", "ssh-keygen", "flock", "find", "stat", "xargs")
# What we lend out for longer than this has been forgotten. A terabyte at 100 Mbit/s takes a day.
_EXPIRY_SECONDS = 2 * 86400

# $1 the model's folder, then the tools to look for. Records end in NUL: `key value`. Names that
# begin with a dot are left out: caches and half downloads of other tools, and our own stage.
# `find -L`: a snapshot of Hugging Face's cache is links to its blobs.
SURVEY = r"""
root=$1; shift
say() { printf '%s %s\0' "$1" "$2"; }
for tool; do say "tool-$tool" "$(command -v "$tool")"; done
say port "${SSH_CONNECTION##* }"
say user "$(id -un)"
say ssh "$(ssh -V 2>&1)"
near=$root
while [ ! -d "$near" ]; do near=${near%/*}; near=${near:-/}; done
say free "$(stat -L -f -c '%a %S' -- "$near")"
[ -w "$near" ] && say writable yes
[ -d "$root" ] || exit 0
find -L "$root/." -name '.?*' -prune -o -type f -printf 'file %s %P\0'
[ -d "$root/STAGE" ] || exit 0
find "$root/STAGE/." -name '.?*' -prune -o -type f -printf 'staged %s %P\0'
""".replace("STAGE", STAGE)

# Taking everything back. Used alone and in HOLD; $id is the push. The file of keys is replaced, not
# rewritten: a host whose disk is full keeps the keys that let its owner in.
_UNDO = r"""
undo() {
  lent=/tmp/ropeway-push.$id mark=ropeway-push-$id home=$HOME/.ssh
  if [ -d "$home" ]; then
    exec 8<"$home" && flock 8 || return
    keys=$(readlink -f -- "$home/authorized_keys")
    if [ -f "$keys" ] && grep -qF "$mark" "$keys"; then
      cp -p -- "$keys" "$keys.$mark" &&
        { grep -vF "$mark" "$keys" >"$keys.$mark"; [ $? -le 1 ]; } &&
        mv -f -- "$keys.$mark" "$keys" || { rm -f -- "$keys.$mark"; return 1; }
    fi
    [ -e "$lent/made-file" ] && [ ! -s "$keys" ] && rm -f -- "$keys"
    [ -e "$lent/made-folder" ] && rmdir "$home" 2>/dev/null
    exec 8<&-
  fi
  rm -rf "$lent"
}
"""

# $1 the push.
UNDO = f"id=$1\n{_UNDO}\nundo\n"

# $1 the push, $2 address and $3 port of this host's sshd; the rest is rsync's options. Makes the
# key, asks rsync which command it would send to the other side (the letters after `-e.` are its
# version's abilities), and asks our own sshd for its keys: it listens on this host, nobody stands
# between. Where ssh-keyscan does not get through, the keys are read from where sshd keeps them.
LEND = r"""
id=$1 address=$2 port=$3; shift 3
umask 077
lent=/tmp/ropeway-push.$id
mkdir -- "$lent" || exit
trap 'rm -rf "$lent"; exit 1' TERM HUP INT
say() { printf '%s %s\0' "$1" "$2"; }
ssh-keygen -q -t ed25519 -N "" -C "ropeway-push-$id" -f "$lent/key" </dev/null || exit
say public "$(cat "$lent/key.pub")"
printf 'echo "$*" >&2\nexit 1\n' >"$lent/line"
say line "$(rsync "$@" -e "sh $lent/line" -- "$lent/./key.pub" peer:. 2>&1 | head -n 1)"
seen=$(ssh-keyscan -T 5 -t ed25519,ecdsa,rsa -p "$port" "$address" 2>/dev/null |
  sed -n 's/^[^# ][^ ]* //p')
say keys "${seen:-$(cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null)}"
"""

# $1 the push, $2 the stage, $3 who we are; without $2 only the undoing. Its first line is `ready`
# or who holds the stage; then the bytes in the stage, whenever they have changed.
HOLD = rf"""
id=$1 stage=$2 who=$3
{_UNDO}
trap 'undo; exit 0' TERM HUP INT
if [ "$stage" ]; then
  mkdir -p -- "$stage" && exec 9>>"$stage/.lock" || exit
  flock -n 9 || {{ printf 'held %s\n' "$(cat "$stage/.lock")"; exit 75; }}
  printf %s "$who" >"$stage/.lock"
fi
echo ready
before=
while :; do
  if [ "$stage" ]; then
    bytes=$(du -sb -- "$stage" 9>&- 2>/dev/null) bytes=${{bytes%%[!0-9]*}}
    [ "$bytes" = "$before" ] || echo "$bytes"
    before=$bytes
  fi
  sleep 1 9>&- &
  wait $!
done
"""

# $1 the push. Its `lines` go to the end of the file of keys, `EXPIRY` in them replaced: sshd reads
# that time in the system's own zone.
ADMIT = rf"""
lent=/tmp/ropeway-push.$1 home=$HOME/.ssh
umask 077
[ -d "$home" ] || {{ mkdir -- "$home" && : >"$lent/made-folder"; }} || exit
exec 8<"$home" && flock 8 || exit
keys=$home/authorized_keys
[ -e "$keys" ] || {{ : >>"$keys" && : >"$lent/made-file"; }} || exit
expiry=$(env -u TZ date -d "@$(($(date +%s) + {_EXPIRY_SECONDS}))" +%Y%m%d%H%M%S) || exit
[ -z "$(tail -c 1 -- "$keys")" ] || echo >>"$keys" || exit
sed "s/EXPIRY/$expiry/" "$lent/lines" >>"$keys"
"""

# $1 the stage; names to remove are read, each ended by NUL.
DISCARD = r"""
cd -- "$1" 2>/dev/null || exit 0
xargs -0 -r rm -f --
"""

# The sha256 of each path, one a line; `-` where it cannot be read. sha256sum of coreutils is
# mostly built without the processor's instructions for it; openssl is six times as fast.
HASH = r"""
if command -v openssl >/dev/null; then hash="openssl dgst -sha256 -r"; else hash=sha256sum; fi
for path; do
  sum=$($hash <"$path") || sum=-
  printf '%s\n' "${sum%% *}"
done
"""

# $1 the model's folder, $2 the stage; names are read, each ended by NUL. The first that fails is
# the last.
SETTLE = r"""
xargs -0 -r -n 1 sh -c '
  to=$1/$3
  { mkdir -p -- "${to%/*}" && mv -fT -- "$2/$3" "$to"; } || exit 255
' sh "$1" "$2" && rm -rf -- "$2"
"""
