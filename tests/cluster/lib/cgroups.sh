# shellcheck shell=bash
# The cgroups of a cluster: one folder of its own in each hierarchy (version 1), or one (version 2).
# In it, node/ has the daemons, and the kubelet makes kubepods/.

cgroup_hierarchies() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
  else
    local h
    for h in /sys/fs/cgroup/*/; do [ ! -e "$h/cgroup.procs" ] || echo "${h%/}"; done
  fi
}

# cgroup_enter NAME: makes them and moves this process into node/
cgroup_enter() {
  local h
  while read -r h; do
    hand_down "$h"
    mkdir -p "$h/$1/node"
    if [ -e "$h/cpuset.cpus" ]; then
      local folder
      for folder in "$1" "$1/node"; do   # version 1 wants these set before a process may enter
        cat "$h/cpuset.cpus" > "$h/$folder/cpuset.cpus"
        cat "$h/cpuset.mems" > "$h/$folder/cpuset.mems"
      done
    fi
    echo $$ > "$h/$1/node/cgroup.procs"
    hand_down "$h/$1"
  done < <(cgroup_hierarchies)
}

# hand_down CGROUP: in version 2, its controllers for its children
hand_down() {
  [ ! -e "$1/cgroup.controllers" ] ||
    sed 's/[^ ]\+/+&/g' "$1/cgroup.controllers" 2> /dev/null > "$1/cgroup.subtree_control" || true
}

cgroup_remove() {
  local h
  while read -r h; do
    [ ! -d "$h/$1" ] || find "$h/$1" -depth -type d -exec rmdir {} + 2> /dev/null || true
  done < <(cgroup_hierarchies)
}

cgroup_left() {
  local h
  while read -r h; do [ ! -d "$h/$1" ] || echo "$h/$1"; done < <(cgroup_hierarchies)
}
