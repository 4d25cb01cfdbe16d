{{- define "serin.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{/* At most 52 characters: names are made longer by up to 9 ("-operate" and such), and Helm's release names have 53. */}}
{{- define "serin.fullname" -}}
{{- $name := include "serin.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "serin.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "serin.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: name the account to use in serviceAccount.name" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Who may unpause in mid-run. */}}
{{- define "serin.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "serin.serviceAccount" . }}
{{- end }}

{{- define "serin.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* policy or pause. */}}
{{- define "serin.latch" -}}
{{- if ne .Values.latch "auto" -}}
{{- .Values.latch -}}
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
policy
{{- else -}}
pause
{{- end -}}
{{- end }}

{{/* Kinds of configuration that Rollouts may track. */}}
{{- define "serin.configuration" -}}
{{- with .Values.configuration -}}
{{- if and (or .configMaps .secrets) (ne (include "serin.latch" $) "policy") -}}
{{- fail "configuration.configMaps and configuration.secrets need latch: policy (Kubernetes 1.36 or later)" -}}
{{- end -}}
{{- $kinds := list -}}
{{- if .configMaps }}{{ $kinds = append $kinds "config-map" }}{{ end -}}
{{- if .secrets }}{{ $kinds = append $kinds "secret" }}{{ end -}}
{{- join "," $kinds -}}
{{- end -}}
{{- end }}

{{- define "serin.selector" -}}
app.kubernetes.io/name: {{ include "serin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "serin.controllerSelector" -}}
{{ include "serin.selector" . }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "serin.labels" -}}
{{ include "serin.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Only the governed namespaces, if they are listed. */}}
{{- define "serin.namespaceSelector" -}}
{{- with .Values.namespaces }}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "serin.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "serin.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What the controller does, verb by verb; a test of the controller against these rules keeps the list honest. */}}
{{- define "serin.rules" -}}
- apiGroups: [serin.dev]
  resources: [rollouts]
  verbs: [list, watch, patch]
- apiGroups: [serin.dev]
  resources: [rolloutruns]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [serin.dev]
  resources: [rollouts/status, rolloutruns/status]
  verbs: [patch]
# What a run saw and decided, in parts; the middle of a long one goes.
- apiGroups: [serin.dev]
  resources: [rolloutrecords]
  verbs: [list, create, patch, delete]
# Owner references with blockOwnerDeletion, where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [serin.dev]
  resources: [rollouts/finalizers, rolloutruns/finalizers]
  verbs: [update]
# Labels and spec.paused; the condition by which `kubectl rollout status` ends.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, patch]
- apiGroups: [apps]
  resources: [deployments/status]
  verbs: [patch]
# The canary's pods.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch, create, patch, delete]
# The apex is pinned; the canary's Service comes and goes.
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
# A canary pod that is bad by itself is replaced, once in a run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# Weights; the route of a preview's host name comes and goes.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes]
  verbs: [list, watch, create, patch, delete]
{{- if .Values.gates.jobs }}
# Gates: a Job is made and looked at; the end of its log is what it says.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- if or .Values.configuration.configMaps .Values.configuration.secrets }}
# Configuration as a part of a version: read, and kept in copies that come and go with versions.
- apiGroups: [""]
  resources: [{{ if .Values.configuration.configMaps }}configmaps{{ end }}{{ if and .Values.configuration.configMaps .Values.configuration.secrets }}, {{ end }}{{ if .Values.configuration.secrets }}secrets{{ end }}]
  verbs: [list, watch, create, delete]
{{- end }}
{{- if .Values.telemetry.secrets }}
# Credentials for Prometheus, as Rollouts name them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* Annotations of what exists only while the release is being uninstalled; the argument is its place in the order. */}}
{{- define "serin.restoreHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
