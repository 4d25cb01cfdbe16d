# shellcheck shell=bash
# The daemons' configuration files, written to $ETC.

write_configs() {
  mkdir -p "$ETC/cni"
  : > "$ETC/resolv.conf"

  cat > "$ETC/containerd.toml" <<TOML
version = 2
root = "$STATE/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "serin.local/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true   # where CAP_SYS_RESOURCE is missing, lowering it fails
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$ETC/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML

  cat > "$ETC/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "serin", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$NODE_POD_RANGE"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON

  cat > "$ETC/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
clusterDomain: cluster.local
clusterDNS: ["$NODE_IP"]
resolvConf: $ETC/resolv.conf
podLogsDir: /var/log/pods
volumePluginDir: $STATE/memory/volume-plugins
failSwapOn: false
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100   # imported images can't be fetched again
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: "100Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
nodeStatusUpdateFrequency: 4s
maxPods: 200
serializeImagePulls: false
shutdownGracePeriod: 0s
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: $CRASH_MAX}
YAML

  cat > "$ETC/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY_MODE
clusterCIDR: $POD_RANGE
detectLocalMode: ClusterCIDR
hostnameOverride: $NODE
bindAddress: 0.0.0.0
healthzBindAddress: 0.0.0.0:10256
nodePortAddresses: [primary]
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}   # leave the machine's alone
iptables: {minSyncPeriod: 100ms}
nftables: {minSyncPeriod: 100ms}
YAML

  cat > "$ETC/Corefile" <<CADDY
.:53 {
  bind $NODE_IP
  errors
  ready $NODE_IP:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $PKI/coredns.kubeconfig
    pods insecure
    ttl 5
  }
  cache 5
}
CADDY

  cat > "$ETC/contour.yaml" <<YAML
gateway: {gatewayRef: {namespace: gateway, name: gw}}
YAML

  cat > "$ETC/envoy-gateway.yaml" <<YAML
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Custom
  custom:
    resource: {type: Kubernetes, kubernetes: {leaderElection: {disable: true}}}
    infrastructure:
      type: Host   # it starts Envoy itself
      host:
        configHome: $ETC/envoy-gateway
        dataHome: $ETC/envoy-gateway
        stateHome: $STATE/memory/envoy-gateway
        runtimeDir: /run/envoy-gateway
YAML

  # As in Prometheus' own example for Kubernetes: a target for each port that a container declares, or for the one that
  # the annotation names; all labels of the pod become labels of its series.
  cat > "$ETC/prometheus.yaml" <<YAML
global: {scrape_interval: 5s, scrape_timeout: 4s}
scrape_configs:
- job_name: pods
  kubernetes_sd_configs: [{role: pod, kubeconfig_file: $PKI/prometheus.kubeconfig}]
  relabel_configs:
  - {action: keep, source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true"}
  - {action: drop, source_labels: [__meta_kubernetes_pod_phase], regex: Pending|Succeeded|Failed}
  - {action: drop, source_labels: [__meta_kubernetes_pod_container_init], regex: "true"}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], regex: (.+), target_label: __metrics_path__}
  - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
    regex: (.+);(\d+)
    target_label: __address__
    replacement: \$1:\$2
  - {action: labelmap, regex: __meta_kubernetes_pod_label_(.+)}
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
YAML
}
