# shellcheck shell=bash
# The names and addresses of a cluster. Every cluster has a network of its own, so all may have the same addresses.

NODE_IP=198.18.0.2            # a range set aside for tests (RFC 2544)
NODE_MASK=30
POD_RANGE=10.244.0.0/16
NODE_POD_RANGE=10.244.0.0/24
SERVICE_RANGE=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
API_PORT=6443
GATEWAY_PORT=8888
ENVOY_PORT=$(( GATEWAY_PORT + 8000 ))   # Contour adds 8000 to a listener's port
ENVOY_ADMIN_PORT=18013                  # 18010 to 18012 are Contour's
CONTOUR_METRICS_PORT=18011
ENVOY_GATEWAY_PORT=8889                 # Envoy Gateway itself has 8080, 8081, 9443, 18000 to 18002, 19000 and 19001
ENVOY_GATEWAY_ADMIN_PORT=18014
METRICS_SERVER_PORT=4443
PROMETHEUS_PORT=9090

# gateway_is NAME: is it one of those that --gateway asks for?
gateway_is() { case $GATEWAY in "$1"|both) ;; *) return 1 ;; esac; }

# optional_parts: the programs that the options of up ask for, beyond the default ones; each is a component and a daemon
optional_parts() {
  ! gateway_is envoy-gateway || echo envoy-gateway
  [ "$METRICS" = no ] || echo metrics-server
  [ "$PROMETHEUS" = no ] || echo prometheus
}

# ID is unique for each start, and is in the name of all that a cluster leaves outside its own namespaces.
new_id() { od -An -N4 -tx4 /dev/urandom | tr -d ' '; }
network_of() { echo "serin-$1"; }   # a network namespace
cgroup_of() { echo "serin-$1"; }    # a cgroup in each hierarchy
