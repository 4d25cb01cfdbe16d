# shellcheck shell=bash
# Removes a cluster: its processes, network, cgroups and folder. May be called at any moment of its life,
# several times, and by several at once.

# teardown ID FOLDER [keep-logs]
teardown() {
  local id=$1 folder=$2 network round
  network=$(network_of "$id")
  # Twice, as a command of a killed script may still be running when the first round looks.
  for round in 1 2; do
    kill_all_in "$network"
    [ ! -e "/run/netns/$network" ] || ip netns del "$network" 2> /dev/null || true
    remove_cgroups "$(cgroup_of "$id")"
    [ $round = 2 ] || [ -z "${ABRUPT:-}" ] || sleep 0.4
  done
  [ "${3:-}" != keep-logs ] || keep_logs "$folder"
  rm -rf --one-file-system "$folder.$id"
  [ "$(cat "$folder/id" 2> /dev/null)" != "$id" ] || rm -rf --one-file-system "$folder"
}

# The daemons, and every command that was started inside. The daemons' first process takes the pods along:
# it is the first of a PID namespace.
kill_all_in() {
  local pids
  for _ in $(seq 100); do
    [ -e "/run/netns/$1" ] || return 0
    pids=$(ip netns pids "$1" 2> /dev/null | grep -vx $$ || true)
    [ -n "$pids" ] || return 0
    kill -KILL $pids 2> /dev/null || true
    sleep 0.05
  done
  echo "$PROGRAM: can't kill all processes in the network namespace $1" >&2
}

remove_cgroups() {
  for _ in $(seq 50); do
    cgroup_remove "$1"
    [ -n "$(cgroup_left "$1")" ] || return 0
    sleep 0.1
  done
  echo "$PROGRAM: can't remove the cgroups $(cgroup_left "$1" | tr '\n' ' ')" >&2
}

# For a look at what went wrong, after the cluster is gone.
keep_logs() {
  [ -d "$1/logs" ] || return 0
  rm -rf "$CACHE/last-failure"
  cp -r "$1/logs" "$CACHE/last-failure" 2> /dev/null || true
}
