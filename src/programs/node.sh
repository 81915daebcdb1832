#!/bin/sh
# Runs its arguments on a Node that is new enough: $HOLDFAST_NODE, else the user's own, else the one the repository brings.
# holdfast.sh reads this file in instead of starting it, which spares the start of a shell.

# effect 4.1 needs Node >= 22.19.
new_enough() {
  version=$("$1" --version 2>/dev/null) || return 1
  case $version in v[0-9]*.[0-9]*.[0-9]*) ;; *) return 1 ;; esac
  version=${version#v}
  major=${version%%.*}
  version=${version#*.}
  minor=${version%%.*}
  case $major$minor in *[!0-9]*) return 1 ;; esac
  [ "$major" -gt 22 ] || { [ "$major" -eq 22 ] && [ "$minor" -ge 19 ]; }
}

# The one that runs npm, or the first on PATH that will do. npm puts node_modules/.bin first on PATH: not the user's own.
find_own() {
  node=$npm_node_execpath
  [ -n "$node" ] && new_enough "$node" && return
  refused=$node
  set -f
  IFS=:
  for dir in $PATH; do
    case $dir in '' | *node_modules/.bin | *node_modules/.bin/) continue ;; esac
    node=$dir/node
    # /bin is often /usr/bin once more, and asking a Node for its version takes 6 ms.
    [ -x "$node" ] && ! [ "$node" -ef "$refused" ] || continue
    new_enough "$node" && return
    refused=$node
  done
  return 1
}

# In a clone, the one that the lock file pins, so nobody asks for its version. Installed, the one of the project around us.
find_brought() {
  self=$(readlink -f "$0")
  root=${self%/*}
  root=${root%/dist}
  root=${root%/src/programs}
  node=$root/node_modules/.bin/node
  [ -x "$node" ] && return
  around=${root%/*}
  node=$around/.bin/node
  case $around in */node_modules) [ -x "$node" ] && new_enough "$node" ;; *) return 1 ;; esac
}

if [ -n "$HOLDFAST_NODE" ]; then
  node=$HOLDFAST_NODE
  new_enough "$node" || { echo "holdfast: HOLDFAST_NODE=$node is not Node 22.19 or newer. Point it at one, or unset it." >&2; exit 1; }
elif ! find_own && ! find_brought; then
  echo "holdfast: needs Node 22.19 or newer and found none. Install one (https://nodejs.org), or set HOLDFAST_NODE to its path." >&2
  exit 1
fi
exec "$node" "$@"
