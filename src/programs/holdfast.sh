#!/bin/sh
# holdfast: the operator's command; the bundled programs on a Node that is new enough.
self=$(readlink -f "$0")
here=${self%/*}
[ -f "$here/cli.mjs" ] || { echo "holdfast: $here/cli.mjs is missing. In a clone, run: npm run build" >&2; exit 1; }
young=
case $1 in
  up) program=gateway; shift ;;
  node)
    # A node is a gateway with a link to another one.
    if [ "$2" = run ]; then program=gateway; shift 2; set -- --node "$@"; else program=cli; fi
    ;;
  demo) program=demo; shift ;;
  *) program=cli ;;
esac
if [ $program = gateway ]; then
  # A payload of megabytes comes and goes. What it took is given back, where glibc would keep it from the second one on, and
  # V8 half of its heap: 60 MB after 200 of 5 MB instead of 130.
  export MALLOC_MMAP_THRESHOLD_=131072
  young=--max-semi-space-size=2
fi
set -- --no-warnings $young "$here/$program.mjs" "$@"
. "$here/node.sh"
