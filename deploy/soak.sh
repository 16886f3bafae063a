#!/usr/bin/env bash
# A soak of a daemon of its own: the small default model on a free port, churned for $1 minutes (1), then stopped.
# Its exit status is that of the soak, or 1 where the daemon did not start or stop as it should.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODEL=smollm2-135m-instruct
READY_TIMEOUT_S=300
STOP_TIMEOUT_S=60
minutes=${1:-1}

log=$(mktemp)
daemon= # process id of the daemon

die() {
  printf 'soak: %s; the last of its log:\n' "$*" >&2
  tail -n 20 "$log" >&2
  exit 1
}

# True once the daemon has ended, within $1 seconds.
daemon_ended() {
  local until=$((SECONDS + $1))
  while kill -0 "$daemon" 2>/dev/null; do
    ((SECONDS < until)) || return 1
    sleep 0.2
  done
}

# shellcheck disable=SC2329 # the trap calls it
finish() {
  local status=$?
  trap - EXIT
  if [ -n "$daemon" ]; then
    kill -TERM "$daemon" 2>/dev/null || true
    daemon_ended 10 || kill -KILL "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  rm -f "$log"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# http.client, not curl: it is there, and goes through no proxy.
is_ready() {
  .venv/bin/python -c '
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
try:
    connection.request("GET", "/readyz")
    sys.exit(connection.getresponse().status != 200)
except (OSError, http.client.HTTPException):
    sys.exit(1)' "$port"
}

.venv/bin/appliance models pull "$MODEL"
port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# A small KV cache is full, and used again, within seconds.
APPLIANCE__ENGINE__KV_CACHE_TOKENS=${APPLIANCE__ENGINE__KV_CACHE_TOKENS:-8192} \
  .venv/bin/appliance serve --model "$MODEL" --port "$port" 2>"$log" &
daemon=$!
until=$((SECONDS + READY_TIMEOUT_S))
until is_ready; do
  kill -0 "$daemon" 2>/dev/null || die "the daemon ended before it was ready"
  ((SECONDS < until)) || die "the daemon is not ready after $READY_TIMEOUT_S s"
  sleep 0.5
done

found=0
.venv/bin/appliance bench --url "http://127.0.0.1:$port" --soak "$minutes" || found=$?

kill -TERM "$daemon" 2>/dev/null || die "the daemon ended during the soak"
daemon_ended "$STOP_TIMEOUT_S" || die "the daemon still runs $STOP_TIMEOUT_S s after SIGTERM"
status=0
wait "$daemon" || status=$?
daemon=
[ "$status" = 0 ] || die "the daemon ended with status $status after SIGTERM, not 0"
exit "$found"
