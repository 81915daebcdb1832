#!/bin/sh
# Runs its arguments on a Node that is new enough: $HOLDFAST_NODE, else the user's own, else the one the repository brings.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)

# effect 4.1 needs Node >= 22.19.
new_enough() {
  version=$("$1" --version 2>/dev/null) || return 1
  version=${version#v}
  major=${version%%.*}
  rest=${version#*.}
  minor=${rest%%.*}
  [ "$major" -gt 22 ] || { [ "$major" -eq 22 ] && [ "$minor" -ge 19 ]; }
}

# npm puts node_modules/.bin first on PATH; the user's own Node is the first one behind those.
own_node() {
  [ -n "$npm_node_execpath" ] && { printf '%s\n' "$npm_node_execpath"; return; }
  old_ifs=$IFS
  IFS=:
  for dir in $PATH; do
    case $dir in */node_modules/.bin) continue ;; esac
    [ -x "$dir/node" ] && { printf '%s\n' "$dir/node"; break; }
  done
  IFS=$old_ifs
}

if [ -n "$HOLDFAST_NODE" ]; then
  new_enough "$HOLDFAST_NODE" || { echo "holdfast: HOLDFAST_NODE=$HOLDFAST_NODE is not Node 22.19 or newer. Point it at one, or unset it." >&2; exit 1; }
  exec "$HOLDFAST_NODE" "$@"
fi
node=$(own_node)
[ -n "$node" ] && new_enough "$node" && exec "$node" "$@"
for dir in "$here/.." "$here/../.."; do
  node=$dir/node_modules/.bin/node
  [ -x "$node" ] && new_enough "$node" && exec "$node" "$@"
done
echo "holdfast: needs Node 22.19 or newer and found none. Install one (https://nodejs.org), or set HOLDFAST_NODE to its path." >&2
exit 1
