"""What a push runs in the hosts' own shells.

Each is a POSIX script with positional arguments, so that no path is ever part of a script's text.
Besides `sh` they need rsync, OpenSSH, GNU find and stat, flock, and sha256sum or openssl.

No key outlives a push. While it runs, HOLD runs on every host; it ends when the connection does,
whatever the cause, and revokes everything before it exits. REVOKE runs once more at the end, to
make sure.
"""

STAGING = ".ropeway-push"
TOOLS = ("rsync", "ssh", "ssh-keygen", "flock", "find", "stat", "xargs")
# A key that is still there after this time was forgotten. A terabyte at 100 Mbit/s takes a day.
_EXPIRY_SECONDS = 2 * 86400

# What a host has. $1: the model's folder; the rest: the tools to look for. Prints records
# `key value`, each ended by NUL. Names that begin with a dot are left out: caches and unfinished
# downloads of other tools, and our own staging folder. `find -L`: a snapshot in Hugging Face's
# cache consists of links to its blobs.
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
[ -d "$root/STAGING" ] || exit 0
find "$root/STAGING/." -name '.?*' -prune -o -type f -printf 'staged %s %P\0'
""".replace("STAGING", STAGING)

# Removes the keys of push $id; used alone and in HOLD. authorized_keys is replaced, not rewritten:
# a host whose disk is full keeps the keys that let its owner in.
_REVOKE = r"""
revoke() {
  folder=/tmp/ropeway-push.$id mark=ropeway-push-$id home=$HOME/.ssh
  if [ -d "$home" ]; then
    exec 8<"$home" && flock 8 || return
    keys=$(readlink -f -- "$home/authorized_keys")
    if [ -f "$keys" ] && grep -qF "$mark" "$keys"; then
      cp -p -- "$keys" "$keys.$mark" &&
        { grep -vF "$mark" "$keys" >"$keys.$mark"; [ $? -le 1 ]; } &&
        mv -f -- "$keys.$mark" "$keys" || { rm -f -- "$keys.$mark"; return 1; }
    fi
    [ -e "$folder/made-file" ] && [ ! -s "$keys" ] && rm -f -- "$keys"
    [ -e "$folder/made-folder" ] && rmdir "$home" 2>/dev/null
    exec 8<&-
  fi
  rm -rf "$folder"
}
"""

# $1: the push.
REVOKE = f"id=$1\n{_REVOKE}\nrevoke\n"

# $1: the push; $2, $3: address and port of this host's sshd; the rest: rsync's options. Makes the
# key, asks rsync which command it would send to the other side (the letters after `-e.` are its
# version's abilities), and asks the host's own sshd for its keys, which nobody can intercept. Where
# ssh-keyscan does not get through, the keys are read from where sshd keeps them.
GENERATE_KEY = r"""
id=$1 address=$2 port=$3; shift 3
umask 077
folder=/tmp/ropeway-push.$id
mkdir -- "$folder" || exit
trap 'rm -rf "$folder"; exit 1' TERM HUP INT
say() { printf '%s %s\0' "$1" "$2"; }
ssh-keygen -q -t ed25519 -N "" -C "ropeway-push-$id" -f "$folder/key" </dev/null || exit
say public "$(cat "$folder/key.pub")"
printf 'echo "$*" >&2\nexit 1\n' >"$folder/line"
say line "$(rsync "$@" -e "sh $folder/line" -- "$folder/./key.pub" peer:. 2>&1 | head -n 1)"
scan=$(ssh-keyscan -T 5 -t ed25519,ecdsa,rsa -p "$port" "$address" 2>/dev/null |
  sed -n 's/^[^# ][^ ]* //p')
say keys "${scan:-$(cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null)}"
"""

# Holds a host for as long as the push runs. $1: the push; $2: the staging folder, or nothing on the
# source; $3: who pushes. Its first line is `ready`, or `held` and who holds the staging folder;
# after that it prints the bytes in the staging folder whenever they have changed.
HOLD = rf"""
id=$1 staging=$2 who=$3
{_REVOKE}
trap 'revoke; exit 0' TERM HUP INT
if [ "$staging" ]; then
  mkdir -p -- "$staging" && exec 9>>"$staging/.lock" || exit
  flock -n 9 || {{ printf 'held %s\n' "$(cat "$staging/.lock")"; exit 75; }}
  printf %s "$who" >"$staging/.lock"
fi
echo ready
before=
while :; do
  if [ "$staging" ]; then
    bytes=$(du -sb -- "$staging" 9>&- 2>/dev/null) bytes=${{bytes%%[!0-9]*}}
    [ "$bytes" = "$before" ] || echo "$bytes"
    before=$bytes
  fi
  sleep 1 9>&- &
  wait $!
done
"""

# Appends the `lines` of push $1 to authorized_keys and fills in their EXPIRY, which sshd reads in
# the system's own time zone.
AUTHORIZE = rf"""
folder=/tmp/ropeway-push.$1 home=$HOME/.ssh
umask 077
[ -d "$home" ] || {{ mkdir -- "$home" && : >"$folder/made-folder"; }} || exit
exec 8<"$home" && flock 8 || exit
keys=$home/authorized_keys
[ -e "$keys" ] || {{ : >>"$keys" && : >"$folder/made-file"; }} || exit
expiry=$(env -u TZ date -d "@$(($(date +%s) + {_EXPIRY_SECONDS}))" +%Y%m%d%H%M%S) || exit
[ -z "$(tail -c 1 -- "$keys")" ] || echo >>"$keys" || exit
sed "s/EXPIRY/$expiry/" "$folder/lines" >>"$keys"
"""

# Removes files from the staging folder $1. Reads their names, each ended by NUL.
DISCARD = r"""
cd -- "$1" 2>/dev/null || exit 0
xargs -0 -r rm -f --
"""

# Prints the sha256 of each path, one per line; `-` for a file that cannot be read. coreutils'
# sha256sum is mostly built without the processor's SHA instructions; openssl is six times as fast.
HASH = r"""
if command -v openssl >/dev/null; then hash="openssl dgst -sha256 -r"; else hash=sha256sum; fi
for path; do
  sum=$($hash <"$path") || sum=-
  printf '%s\n' "${sum%% *}"
done
"""

# Moves files from the staging folder $2 to the model's folder $1, and removes the staging folder.
# Reads their names, each ended by NUL. Stops at the first that fails.
PUBLISH = r"""
xargs -0 -r -n 1 sh -c '
  to=$1/$3
  { mkdir -p -- "${to%/*}" && mv -fT -- "$2/$3" "$to"; } || exit 255
' sh "$1" "$2" && rm -rf -- "$2"
"""
