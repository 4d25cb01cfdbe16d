# shellcheck shell=bash
# Ties a cluster's life to this script: a watchdog in a session of its own removes it when the script ends.
# File descriptor 9 is the leash: no child that lives long may have it (start those with 9>&-; not a function,
# for which bash would keep a copy open).

WATCHDOG=
leash() { # leash ID FOLDER
  exec 9> >(exec setsid "$LIB/watchdog" "$1" "$2" > /dev/null 2>&1)
  WATCHDOG=$!
}

# unleash [WORD]: tells the watchdog the word, and waits until it has done its work
unleash() {
  [ -n "$WATCHDOG" ] || return 0
  trap '' INT TERM HUP
  [ -z "${1:-}" ] || echo "$1" >&9
  exec 9>&-
  for _ in $(seq 300); do running "$WATCHDOG" || break; sleep 0.05; done
  WATCHDOG=
}
