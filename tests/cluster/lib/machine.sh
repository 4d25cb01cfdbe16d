# shellcheck shell=bash
# Can this machine run the cluster? Each function prints the reason when it can't.

why_not_this_machine() {
  [ "$(uname -s)" = Linux ] || { echo "not Linux"; return; }
  [ "$(id -u)" = 0 ] || { echo "not root: network namespaces, mounts and cgroups need it"; return; }
  command -v apt-get > /dev/null || command -v containerd > /dev/null ||
    { echo "neither containerd nor apt-get to install it with"; return; }
  command -v go > /dev/null ||
    { echo "no Go: install Go 1.26 or newer (https://go.dev/dl), and put it in PATH"; return; }
  unshare --net true 2> /dev/null || { echo "no network namespaces (unshare --net fails)"; return; }
  unshare --mount --pid --fork --mount-proc true 2> /dev/null ||
    { echo "no mount or PID namespaces (unshare --mount --pid fails)"; return; }
  unshare --mount mount -t tmpfs none /mnt 2> /dev/null || { echo "no mounts inside a namespace"; return; }
  why_no_overlay
  why_no_cgroups
}

why_no_overlay() {
  # shellcheck disable=SC2016
  unshare --mount sh -c 'mount -t tmpfs none /mnt && cd /mnt && mkdir upper work merged &&
    mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work merged' 2> /dev/null ||
    echo "no overlay file system"
}

why_no_cgroups() {
  local probe=serin-probe-$$ root=/sys/fs/cgroup
  [ -e $root/cgroup.controllers ] || root=/sys/fs/cgroup/memory
  if ! mkdir "$root/$probe" 2> /dev/null; then echo "no writable cgroups ($root)"; return; fi
  rmdir "$root/$probe"
}
