# shellcheck shell=bash
# Container images: docker archives in $CACHE/images, imported by every up, and into running clusters.

# image_build REF BINARY [NAME=VALUE]...: sets ARCHIVE and IMAGE_KEY; writes it only when something changed.
# The image is the program, at /NAME, and the shared libraries that it links, each at its own path.
image_build() {
  local ref=$1 binary=$2 libraries env=() pair program; shift 2
  [ -x "$binary" ] || die "no program $binary"
  program=/$(basename "$binary")
  libraries=$(shared_libraries "$binary")
  for pair in "$@"; do env+=(-env "$pair"); done
  ARCHIVE=$CACHE/images/$(tr '/:' '__' <<< "$ref").tar
  # shellcheck disable=SC2086
  IMAGE_KEY=$({ echo "$ref $program $* $IMAGE_TOOL"; cat "$binary" $libraries; } | sha256sum | cut -c1-32)
  [ "$(cat "$ARCHIVE.key" 2> /dev/null)" != "$IMAGE_KEY" ] || [ ! -e "$ARCHIVE" ] || return 0
  mkdir -p "$CACHE/images"
  local files=("$binary=$program") library
  for library in $libraries; do files+=("$library=$library"); done
  "$IMAGE_TOOL" -o "$ARCHIVE.$$" -ref "$ref" -entrypoint "$program" ${env[@]+"${env[@]}"} "${files[@]}"
  mv "$ARCHIVE.$$" "$ARCHIVE"
  echo "$IMAGE_KEY" > "$ARCHIVE.key"
}

# of a program: also the loader itself; nothing for a static one
shared_libraries() { ldd "$1" 2> /dev/null | grep -o '/[^ ]* (0x' | cut -d' ' -f1 || true; }

# image_import: ARCHIVE into the cluster of STATE, unless it has it
image_import() {
  local done_file
  done_file=$STATE/imported/$(basename "$ARCHIVE")
  [ "$(cat "$done_file" 2> /dev/null)" != "$IMAGE_KEY" ] || return 0
  in_node "$STATE" ctr -a /run/containerd/containerd.sock -n k8s.io images import --snapshotter overlayfs - \
    < "$ARCHIVE" > /dev/null || die "importing $ARCHIVE failed"
  mkdir -p "$STATE/imported"
  echo "$IMAGE_KEY" > "$done_file"
}

cluster_is_up() { [ -e "$STATE/env" ]; }
