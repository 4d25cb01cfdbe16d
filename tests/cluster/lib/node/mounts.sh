# shellcheck shell=bash
# The node's own view of the file system. All of it is in a mount namespace: nothing shows outside, and all
# goes when the last process does.

private_mounts() {
  # What other clusters mounted is not ours to hold on to.
  ! mountpoint --quiet /run/netns || umount --recursive --lazy /run/netns || true
  mkdir -p "$STATE/memory"
  mount -t tmpfs tmpfs "$STATE/memory"
  local folder copy
  for folder in var etc; do   # copy on write: the kubelet, CNI and containerd have fixed paths there
    copy=$STATE/memory/$folder
    mkdir -p "$copy/upper" "$copy/work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$copy/upper,workdir=$copy/work" "/$folder"
  done
  mount -t tmpfs tmpfs /run   # sockets, state of shims, network namespaces of pods
  mkdir -p /run/lock /var/lib/kubelet /var/log/pods
  rm -f /etc/resolv.conf; : > /etc/resolv.conf   # nothing asks the machine's resolver
  show_kernel_setting vm/overcommit_memory 1
  show_kernel_setting vm/panic_on_oom 0
  show_kernel_setting kernel/panic 10
  show_kernel_setting kernel/panic_on_oops 1
  show_kernel_setting kernel/keys/root_maxkeys 1000000
  show_kernel_setting kernel/keys/root_maxbytes 25000000
  mount --make-rshared /
}

# The kubelet insists on some settings of the whole machine. It is shown the values that it wants.
show_kernel_setting() {
  local file=$STATE/memory/sysctl/$1
  mkdir -p "$(dirname "$file")"
  echo "$2" > "$file"
  [ ! -e "/proc/sys/$1" ] || mount --bind "$file" "/proc/sys/$1"
}
