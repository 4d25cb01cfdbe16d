# shellcheck shell=bash
# What the cluster needs of the distribution, installed with apt where it is missing.

# "a file or command that proves it":"its Debian package"
PACKAGES="
containerd:containerd runc:runc iptables:iptables nft:nftables conntrack:conntrack ip:iproute2
/usr/lib/cni/bridge:containernetworking-plugins openssl:openssl curl:curl modprobe:kmod
unshare:util-linux gcc:gcc /usr/include/stdlib.h:libc6-dev python3:python3 ps:procps
/etc/ssl/certs/ca-certificates.crt:ca-certificates"

missing_packages() {
  local entry
  for entry in $PACKAGES; do
    case $entry in
      /*) [ -e "${entry%%:*}" ] || echo "${entry##*:}" ;;
      *) command -v "${entry%%:*}" > /dev/null || echo "${entry##*:}" ;;
    esac
  done
  python3 -c 'import ensurepip, venv' 2> /dev/null || echo python3-venv
}

install_packages() {
  local missing log=$CACHE/logs/apt.log
  missing=$(missing_packages | sort -u | tr '\n' ' ')
  [ -n "${missing// /}" ] || return 0
  QUIET='' stage "installing packages (about 20 s): $missing"
  mkdir -p "$CACHE/logs"
  # policy-rc.d is not touched: a containerd service that a package starts is not used, and does no harm
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing; } > "$log" 2>&1 ||
    die "apt-get could not install $missing: $(tail -n 3 "$log" | tr '\n' ' ')(all of it: $log)"
}
