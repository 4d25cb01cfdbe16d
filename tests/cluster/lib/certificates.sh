# shellcheck shell=bash
# The keys and certificates of a cluster, and kubeconfig files with them. About half a second.

# certificates FOLDER NODE [CLIENT]...: more clients, besides those that every cluster has
certificates() {
  mkdir -p "$1" && cd "$1" || return
  local name
  authority ca serin-test &
  authority front-proxy-ca serin-test-front-proxy &
  (key sa; openssl ec -in sa.key -pubout -out sa.pub) &
  wait
  signed apiserver /CN=kube-apiserver ca serverAuth "DNS:kubernetes,DNS:kubernetes.default,$(
    )DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,$(
    )IP:127.0.0.1,IP:$API_SERVICE_IP,IP:$NODE_IP" &
  signed kubelet-server "/O=system:nodes/CN=system:node:$2" ca serverAuth "DNS:$2,IP:$NODE_IP" &
  signed apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client ca clientAuth &
  signed front-proxy-client /CN=front-proxy-client front-proxy-ca clientAuth &
  client admin /O=system:masters/CN=admin &
  client kubelet "/O=system:nodes/CN=system:node:$2" &
  client controller-manager /CN=system:kube-controller-manager &
  client scheduler /CN=system:kube-scheduler &
  client proxy /CN=system:kube-proxy &
  client coredns /O=system:masters/CN=coredns &
  client contour /O=system:masters/CN=contour &
  for name in "${@:3}"; do client "$name" "/O=system:masters/CN=$name" & done
  wait
  for name in apiserver kubelet-server apiserver-kubelet-client front-proxy-client \
    admin kubelet controller-manager scheduler proxy coredns contour "${@:3}"; do
    [ -s $name.crt ] || { echo "no certificate $name" >&2; return 1; }
  done
}

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

authority() { # authority FILE NAME
  key "$1"
  openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 30 -out "$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

signed() { # signed FILE SUBJECT AUTHORITY USAGE [NAMES]
  key "$1"
  { echo "extendedKeyUsage=$4"; echo "keyUsage=critical,digitalSignature,keyEncipherment"
    [ -z "${5:-}" ] || echo "subjectAltName=$5"; } > "$1.ext"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA "$3.crt" -CAkey "$3.key" -set_serial "0x$(openssl rand -hex 8)" -days 30 \
      -extfile "$1.ext" -out "$1.crt"
}

client() { # client FILE SUBJECT: a certificate and a kubeconfig file with it
  signed "$1" "$2" ca clientAuth
  cat > "$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: serin, cluster: {server: "https://$NODE_IP:$API_PORT", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: user, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: serin, context: {cluster: serin, user: user}}]
current-context: serin
YAML
}
