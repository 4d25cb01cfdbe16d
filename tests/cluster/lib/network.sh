# shellcheck shell=bash
# The network of a cluster: a namespace with loopback and one address, and no way out of it.

network_make() {
  local network=$1
  modprobe br_netfilter 2> /dev/null || true   # may be built in
  ip netns add "$network"
  # shellcheck disable=SC2016
  nsenter --net="/run/netns/$network" sh -c '
    for i in all default; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done
    echo 1 > /proc/sys/net/ipv4/ip_forward
    # pod -> service -> pod on one bridge goes through the rules of kube-proxy too
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables'
  ip -n "$network" -batch - <<IP
link set lo up
link add node0 type veth peer name node1
link set node1 up
addr add $NODE_IP/$NODE_MASK dev node0
link set node0 up
route add $SERVICE_RANGE dev lo src $NODE_IP
IP
  # The last line: a service address needs some route before the rules of kube-proxy rewrite it.
  # The gateway's port is where clients expect it; Contour lets Envoy listen elsewhere.
  local chain
  for chain in PREROUTING OUTPUT; do
    nsenter --net="/run/netns/$network" iptables -w 5 -t nat -A $chain -p tcp -d $NODE_IP --dport $GATEWAY_PORT \
      -j REDIRECT --to-ports $ENVOY_PORT
  done
}
