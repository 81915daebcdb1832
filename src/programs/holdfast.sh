#!/bin/sh
# holdfast: the operator's command; the bundled cli on a Node that is new enough.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
[ -f "$here/cli.mjs" ] || { echo "holdfast: $here/cli.mjs is missing. In a clone, run: npm run build" >&2; exit 1; }
exec sh "$here/node.sh" "$here/cli.mjs" "$@"
