#!/bin/sh
# hookRelay, in sh: answers one hook by way of `nc -U` or curl. KIND TOOL RECORD EVENT DIRECTION DEADLINE_MS [wait] in
# argv, the provider's JSON on stdin, the gateway's answer on stdout. The promises are in src/services/HookRelay.ts; one suite holds
# every client to them. Needs head -c, date, timeout and a sleep that takes fractions; the token goes through pipes
# that printf (a builtin) writes, never through argv, the environment or a file.

# Bytes, not characters, in lengths and patterns; and the system's own tools before whatever the agent has on its PATH.
LC_ALL=C
export LC_ALL
PATH=/usr/bin:/bin:$PATH
set -f

max_payload=5000000
max_answer=1000000
max_record=4096
max_head=16384
retry=0.05

newline='
'

# The half that asks, under `timeout`: prints K and the answer, or F and a cause.

ends() {
  printf '%s' "F$1"
  exit 0
}

# Sets the record's fields, or $early to the cause why there are none.
read_record() {
  early= version= relay= generation= pid= socket= token= expires=
  text=$(head -c $((max_record + 1)) <"$record") || { early=not-found; return; }
  early=malformed
  [ ${#text} -le $max_record ] || return
  IFS=$newline
  for line in $text; do
    case $line in
      version=*) version=${line#*=} ;;
      relayId=*) relay=${line#*=} ;;
      generation=*) generation=${line#*=} ;;
      pid=*) pid=${line#*=} ;;
      socketPath=*) socket=${line#*=} ;;
      token=*) token=${line#*=} ;;
      expiresAt=*) expires=${line#*=} ;;
    esac
  done
  unset IFS
  [ "$version" = 1 ] || return
  case $relay in '' | *[!A-Za-z0-9._-]*) return ;; esac
  case $generation in '' | *[!0-9]*) return ;; esac
  case $pid in '' | *[!0-9]*) return ;; esac
  case $socket in *['"\']* | *[[:cntrl:]]*) return ;; /?*) ;; *) return ;; esac
  case $token in '' | *[!A-Za-z0-9._~+/=-]*) return ;; esac
  case $expires in '' | *[!0-9]*) return ;; esac
  [ ${#relay} -le 128 ] && [ ${#generation} -le 15 ] && [ ${#pid} -le 10 ] && [ ${#socket} -le 107 ] &&
    [ ${#token} -le 512 ] && [ ${#expires} -le 15 ] || return
  early=
  [ "$expires" -gt "$(date +%s)000" ] || early=expired
}

# Each prints the whole answer, head and body, and then the tool's status in three digits.

ask_nc() {
  printf '%s' "POST /v1/hooks/$event HTTP/1.1${crlf}host: holdfast${crlf}connection: close${crlf}\
authorization: Bearer $token${crlf}x-holdfast-relay: $relay${crlf}x-holdfast-generation: $generation${crlf}\
content-type: application/json${crlf}content-length: ${#payload}${crlf}${crlf}$payload" | "$tool" -U "$socket"
  printf '%03d' $?
}

ask_curl() {
  printf '%s\n' "unix-socket = \"$socket\"" "header = \"authorization: Bearer $token\"" \
    "header = \"x-holdfast-relay: $relay\"" "header = \"x-holdfast-generation: $generation\"" \
    'header = "content-type: application/json"' 'header = "connection: close"' 'header = "expect:"' | {
    printf '%s' "$payload" |
      "$tool" -q -s -i --http1.1 --noproxy '*' -K /dev/fd/3 --data-binary @- "http://holdfast/v1/hooks/$event"
  } 3<&0
  printf '%03d' $?
}

exchange() {
  raw=$("ask_$kind" | head -c $((max_head + 4 + max_answer + 3)))
}

# One try: ends with an answer or a final cause, or returns with $early set when nothing was accepted.
attempt() {
  read_record
  [ -z "$early" ] || return
  exchange
  # curl also calls it a failure to connect when it was accepted and cut off in the same moment; so it is asked twice.
  [ "$kind$raw" != curl007 ] || ! [ -S "$socket" ] || ! kill -0 "$pid" || exchange
  case $kind$raw in
    nc001 | nc002 | curl007) refused=yes ;;
    nc* | curl*000 | curl*018 | curl*052 | curl*055 | curl*056) refused= ;;
    # A server that does not speak HTTP: curl calls it an unsupported protocol or a weird reply.
    curl*001 | curl*008) ends malformed ;;
    *) exit 70 ;;
  esac
  raw=${raw%???}
  if [ "$refused" ]; then
    early=refused
    kill -0 "$pid" || [ -d "/proc/$pid" ] || early=dead-owner
    return
  fi
  case $raw in
    HTTP/1.[01]' '[0-9][0-9][0-9][' '"$crlf"]*"$crlf$crlf"*) ;;
    '' | H | HT | HTT | HTTP | HTTP/*) return ;;
    *) ends malformed ;;
  esac
  head=${raw%%"$crlf$crlf"*}
  [ ${#head} -le $max_head ] || ends malformed
  status=${head#HTTP/1.? }
  status=${status%%[!0-9]*}
  case $status in
    200) ;;
    400) ends malformed ;;
    403) ends forbidden ;;
    404) ends not-found ;;
    408) ends timeout ;;
    410) ends stale-generation ;;
    413) ends too-large ;;
    503) ends refused ;;
    *) ends malformed ;;
  esac
  length=
  IFS=$crlf
  for line in $head; do
    case $line in [Cc]ontent-[Ll]ength:*) length=${line#*:} ;; esac
  done
  IFS=' '
  set -- $length
  unset IFS
  length=$1
  case $length in '' | *[!0-9]* | ??????????*) ends malformed ;; esac
  [ "$length" -le $max_answer ] || ends malformed
  body=${raw#*"$crlf$crlf"}
  [ ${#body} -ge "$length" ] || return
  [ ${#body} -eq "$length" ] || ends malformed
  # Providers run a tool when a hook's stdout is not JSON, so anything but an object or nothing is not passed on.
  case $body in '' | '{'*'}' | '{'*'}'"$newline") ;; *) ends malformed ;; esac
  printf '%s' "K$body"
  exit 0
}

ask() {
  kind=$1 tool=$2 record=$3 event=$4
  # Who waits for a successor takes a gateway that is not there for one that was lost.
  accepted=$5
  crlf=$(printf '\r\n.')
  crlf=${crlf%.}
  payload=$(head -c $((max_payload + 1))) || ends malformed
  [ ${#payload} -le $max_payload ] || ends too-large
  while :; do
    attempt
    [ "$accepted" ] || [ -z "$early" ] || ends "$early"
    accepted=yes
    sleep $retry || exit 70
  done
}

# The half that answers: the only one that writes to stdout, so that a late answer cannot follow a refusal.

# A line for the next gateway: nobody else has seen this. Whatever goes wrong with it, the answer is the same.
note() {
  case $record in */bridges/*) ;; *) return ;; esac
  spool=${record%/bridges/*}/undecided.log
  # A link is not followed, and a pipe in its place not waited for: neither here nor, should it come this moment, behind us.
  [ ! -L "$spool" ] || return
  [ ! -e "$spool" ] || [ -f "$spool" ] || return
  umask 077
  line="$(date +%s) $event $way $1 ${record##*/}"
  timeout -s KILL 1 sh -c '[ "$(wc -c 2>/dev/null <"$1" || echo 0)" -lt 65536 ] && printf "%s\n" "$2" >>"$1"' \
    sh "$spool" "$line" </dev/null >/dev/null 9>&- &
}

fail() {
  way=${direction%%:*}
  case $direction: in
    *:"$1":*) if [ "$way" = closed ]; then way=open; else way=closed; fi ;;
  esac
  note "$1"
  [ "$way" = closed ] || exit 0
  case $1 in
    not-found) reason="no relay record was found; is \`holdfast up\` running and the run still open?" ;;
    stale-generation) reason="the relay was replaced by a newer one; start the agent's turn again" ;;
    dead-owner) reason="the gateway that owned this relay is gone; start it with \`holdfast up\`" ;;
    expired) reason="the relay has expired; start the agent's turn again" ;;
    timeout) reason="no answer came before the deadline; look at \`holdfast status\`" ;;
    refused) reason="the gateway does not accept connections; look at \`holdfast status\`" ;;
    too-large) reason="the hook's payload is over the size limit" ;;
    forbidden) reason="the relay refused the caller's credentials; run \`holdfast doctor\`" ;;
    malformed) reason="the hook's payload or the relay's answer was not what the protocol asks for" ;;
    *) exit 70 ;;
  esac
  reason="Holdfast: $reason [$1]"
  case $event in
    pre_tool_use)
      printf '%s' "{\"hookSpecificOutput\":{\"hookEventName\":\"PreToolUse\",\"permissionDecision\":\"deny\",\"permissionDecisionReason\":\"$reason\"}}" || exit 70
      exit 0
      ;;
    permission_request)
      printf '%s' "{\"hookSpecificOutput\":{\"hookEventName\":\"PermissionRequest\",\"decision\":{\"behavior\":\"deny\",\"message\":\"$reason\"}}}" || exit 70
      exit 0
      ;;
  esac
  printf '%s\n' "$reason" >&9
  exit 2
}

if [ "$1" = ask ]; then
  shift
  ask "$@"
fi

usable=
if [ $# -eq 6 ] || [ "$#$7" = 7wait ]; then
  case $1 in nc | curl) usable=yes ;; esac
  case $4 in '' | *[!a-z_]*) usable= ;; esac
  case $5 in
    *[!a-z:-]*) usable= ;;
    closed | open | closed:* | open:*) ;;
    *) usable= ;;
  esac
  case $6 in '' | 0* | *[!0-9]* | ??????????*) usable= ;; esac
fi
[ "$usable" ] || {
  echo "Holdfast: usage: hookRelay nc|curl TOOL RECORD EVENT closed|open[:CAUSE...] DEADLINE_MS [wait]" >&2
  exit 64
}
record=$3 event=$4 direction=$5
seconds=$(($6 / 1000)) fraction=$(($6 % 1000))
case $fraction in ?) fraction=00$fraction ;; ??) fraction=0$fraction ;; esac

# A shell reports a killed child on its stderr; a hook has one line at most to say.
exec 9>&2 2>/dev/null
reply=$(
  timeout -s KILL "$seconds.$fraction" sh "$0" ask "$1" "$2" "$3" "$4" "$7" 9>&-
  printf '%03d' $?
)
case $reply in
  *000) ;;
  *124 | *137) fail timeout ;;
  *) exit 70 ;;
esac
reply=${reply%???}
case $reply in
  K*) printf '%s' "${reply#K}" || exit 70 ;;
  F*) fail "${reply#F}" ;;
  *) exit 70 ;;
esac
exit 0
