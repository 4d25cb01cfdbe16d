# shellcheck shell=bash

# in_node FOLDER COMMAND...: runs it with the node's own view of files, processes and network
in_node() {
  local init
  init=$(cat "$1/init.pid" 2> /dev/null || true)
  [ -n "$init" ] || die "no cluster is up in $1"
  shift
  nsenter --target "$init" --mount --pid --net --uts --ipc "$@"
}
