# shellcheck shell=bash
# The command line of each daemon: run_NAME replaces the shell with it.

run_etcd() {
  exec etcd --name node --data-dir "$STATE/memory/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster node=http://127.0.0.1:2380
}

run_containerd() { exec containerd --config "$ETC/containerd.toml"; }

run_kube-apiserver() {
  exec kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --advertise-address="$NODE_IP" --secure-port=$API_PORT \
    --service-cluster-ip-range="$SERVICE_RANGE" --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --client-ca-file="$PKI/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
    --kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt" \
    --kubelet-client-key="$PKI/apiserver-kubelet-client.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --proxy-client-cert-file="$PKI/front-proxy-client.crt" --proxy-client-key-file="$PKI/front-proxy-client.key" \
    --requestheader-client-ca-file="$PKI/front-proxy-ca.crt" \
    --requestheader-allowed-names=front-proxy-client --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --audit-policy-file="$CLUSTER/manifests/audit-policy.yaml" --audit-log-path="$AUDIT_LOG" \
    --audit-log-maxsize=10000
}

run_kube-controller-manager() {
  exec kube-controller-manager --kubeconfig="$PKI/controller-manager.kubeconfig" \
    --authentication-kubeconfig="$PKI/controller-manager.kubeconfig" \
    --authorization-kubeconfig="$PKI/controller-manager.kubeconfig" \
    --leader-elect=false --use-service-account-credentials=true --bind-address=127.0.0.1 \
    --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
    --requestheader-client-ca-file="$PKI/front-proxy-ca.crt" \
    --allocate-node-cidrs=true --cluster-cidr="$POD_RANGE" --node-cidr-mask-size=24 \
    --service-cluster-ip-range="$SERVICE_RANGE" --kube-api-qps=200 --kube-api-burst=400 \
    --horizontal-pod-autoscaler-sync-period=5s
}

run_kube-scheduler() {
  exec kube-scheduler --kubeconfig="$PKI/scheduler.kubeconfig" \
    --authentication-kubeconfig="$PKI/scheduler.kubeconfig" \
    --authorization-kubeconfig="$PKI/scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1
}

run_kubelet() {
  exec kubelet --config="$ETC/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" --root-dir=/var/lib/kubelet \
    --hostname-override="$NODE" --node-ip="$NODE_IP" --v=2
}

run_kube-proxy() { exec kube-proxy --config="$ETC/proxy.yaml" --v=2; }

run_coredns() { exec coredns -conf "$ETC/Corefile"; }

run_contour() {
  export CONTOUR_NAMESPACE=gateway
  exec contour serve --kubeconfig="$PKI/contour.kubeconfig" --config-path="$ETC/contour.yaml" --insecure \
    --disable-leader-election --ingress-status-address="$NODE_IP" \
    --xds-address=127.0.0.1 --xds-port=18010 --http-address=127.0.0.1 --http-port=$CONTOUR_METRICS_PORT \
    --health-address=127.0.0.1 --health-port=18012 --stats-address="$NODE_IP" --stats-port=8002
}

# Envoy asks to be killed when the thread that started it ends: that is the node's first process, which stays.
run_envoy() {
  CONTOUR_NAMESPACE=gateway contour bootstrap "$ETC/envoy.json" --xds-address=127.0.0.1 --xds-port=18010 \
    --admin-address="$ETC/admin.sock"
  # Contour wants the admin interface on a Unix socket; counters are easier to read over TCP.
  python3 - "$ETC/envoy.json" $ENVOY_ADMIN_PORT <<'PYTHON'
import json, sys
path, port = sys.argv[1], int(sys.argv[2])
def over_tcp(node):
    if isinstance(node, dict):
        if "pipe" in node:
            del node["pipe"]
            node["socket_address"] = {"address": "127.0.0.1", "port_value": port}
        for child in node.values():
            over_tcp(child)
    elif isinstance(node, list):
        for child in node:
            over_tcp(child)
config = json.load(open(path))
over_tcp(config)
json.dump(config, open(path, "w"))
PYTHON
  # Hot restart would want a socket that only one Envoy of a network can have, and leave a file in /dev/shm.
  exec envoy -c "$ETC/envoy.json" --service-cluster gateway --service-node envoy --log-level warn --concurrency 2 \
    --disable-hot-restart
}

# Its Envoy is its child, and dies with it. It looks for certificates in /certs, which nobody else shall see.
run_envoy-gateway() {
  export KUBECONFIG=$PKI/envoy-gateway.kubeconfig ENVOY_GATEWAY_NAMESPACE=gateway
  exec unshare --mount --propagation private "$LIB/node/root-with" /certs "$ETC/envoy-gateway/certs/envoy-gateway" \
    envoy-gateway server --config-path "$ETC/envoy-gateway.yaml"
}

run_metrics-server() {
  exec metrics-server --kubeconfig="$PKI/metrics-server.kubeconfig" \
    --authentication-kubeconfig="$PKI/metrics-server.kubeconfig" \
    --authorization-kubeconfig="$PKI/metrics-server.kubeconfig" \
    --bind-address="$NODE_IP" --secure-port=$METRICS_SERVER_PORT --cert-dir="$STATE/memory/metrics-server" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --kubelet-use-node-status-port --metric-resolution=10s --kubelet-request-timeout=5s
}

run_prometheus() {
  exec prometheus --config.file="$ETC/prometheus.yaml" --storage.tsdb.path="$STATE/memory/prometheus" \
    --storage.tsdb.retention.time=1d --web.listen-address="0.0.0.0:$PROMETHEUS_PORT" --log.level=warn
}
