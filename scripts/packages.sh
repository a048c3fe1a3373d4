# Functions that get-sshd and get-docker share. $target is the folder to fill; $draft is one beside
# it that `begin_draft` makes and the end of the script removes.
fail() {
  echo "error: $1" >&2
  exit 1
}

use_folder() { # set $target, and make it if it is missing
  mkdir -p "$1" || exit
  target=$(cd "$1" && pwd)
}

begin_draft() {
  draft=$(mktemp -d "$target.XXXXXX") || exit
  trap 'rm -rf "$draft"' EXIT
  trap 'exit 130' INT TERM
}

get() { # unpack one of Debian's packages into $draft/root
  (cd "$draft" && apt-get download -qq "$1" >/dev/null 2>"$draft/apt.log") ||
    fail "cannot download $1 (apt-get update?): $(tail -n 1 "$draft/apt.log")"
  dpkg -x "$draft/$1"_*.deb "$draft/root" || fail "cannot unpack $1"
}

libraries() { # print those that a package needs and this machine lacks
  dpkg-deb -f "$draft/$1"_*.deb Pre-Depends Depends | tr ',' '\n' |
    sed -n 's/^[^:]*: *lib/lib/; s/^ *\(lib[^ :|(]*\).*/\1/p' |
    while read -r name; do
      [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
        ls "$draft/$name"_*.deb >/dev/null 2>&1 || echo "$name"
    done
}

get_with_libraries() { # unpack packages, their libraries, and the libraries of those
  for package in "$@"; do get "$package"; done
  new=$*
  while [ -n "$new" ]; do
    next=
    for package in $new; do
      for name in $(libraries "$package"); do
        get "$name"
        next="$next $name"
      done
    done
    new=$next
  done
}
