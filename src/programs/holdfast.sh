#!/bin/sh
# holdfast: the operator's command; the bundled programs on a Node that is new enough.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
[ -f "$here/cli.mjs" ] || { echo "holdfast: $here/cli.mjs is missing. In a clone, run: npm run build" >&2; exit 1; }
case $1 in
  up) program=gateway; shift ;;
  demo) program=demo; shift ;;
  *) program=cli ;;
esac
exec sh "$here/node.sh" --no-warnings "$here/$program.mjs" "$@"
