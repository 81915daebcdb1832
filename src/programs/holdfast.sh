#!/bin/sh
# holdfast: the operator's command; the bundled programs on a Node that is new enough.
self=$(readlink -f "$0")
here=${self%/*}
[ -f "$here/cli.mjs" ] || { echo "holdfast: $here/cli.mjs is missing. In a clone, run: npm run build" >&2; exit 1; }
case $1 in
  up) program=gateway; shift ;;
  demo) program=demo; shift ;;
  *) program=cli ;;
esac
set -- --no-warnings "$here/$program.mjs" "$@"
. "$here/node.sh"
