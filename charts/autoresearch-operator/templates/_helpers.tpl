{{/* Names, labels and what the operator may do; each once. */}}

{{- define "autoresearch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "autoresearch.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "autoresearch.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "autoresearch.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Cluster-wide objects carry the namespace, or two installations of one name would fight for them. */}}
{{- define "autoresearch.clustername" -}}
{{- printf "%s-%s" .Release.Namespace (include "autoresearch.fullname" .) -}}
{{- end -}}

{{- define "autoresearch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "autoresearch.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "autoresearch.claimName" -}}
{{- default (printf "%s-data" (include "autoresearch.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "autoresearch.selector" -}}
app.kubernetes.io/name: {{ include "autoresearch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "autoresearch.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "autoresearch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: autoresearch
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An annotations block from the common ones and the list's others, or nothing. Takes a dict: root, more. */}}
{{- define "autoresearch.annotations" -}}
{{- $all := mergeOverwrite (dict) (deepCopy .root.Values.commonAnnotations) (deepCopy (default dict .more)) -}}
{{- with $all -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Takes a dict: root, image. */}}
{{- define "autoresearch.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "autoresearch.namespaces" -}}
{{- if .Values.clusterWide -}}
{{- if .Values.watchNamespaces -}}
{{- fail "clusterWide and watchNamespaces are both set: take watchNamespaces out to serve all namespaces, or set clusterWide: false to serve those alone" -}}
{{- end -}}
*
{{- else -}}
{{- default (list .Release.Namespace) .Values.watchNamespaces | uniq | join "," -}}
{{- end -}}
{{- end -}}

{{/* The rights on one namespace's objects (or on all namespaces'), in a Role or a ClusterRole. */}}
{{- define "autoresearch.rules" -}}
# The API of this chart. Runs are people's: the operator writes their status only.
- apiGroups: [autoresearch.dev]
  resources: [researchruns]
  verbs: [get, list, watch]
- apiGroups: [autoresearch.dev]
  resources: [experiments]
  verbs: [get, list, watch, create, delete]
- apiGroups: [autoresearch.dev]
  resources: [researchruns/status, experiments/status]
  verbs: [patch]
# Trials, and the canary that shows whether NetworkPolicies hold.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Candidates' files: immutable, removed with their Experiment.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create]
# The wall around trials, removed with its ResearchRun; and around a canary, removed with its Job.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create]
# Credentials that a run names. RBAC cannot tell labels: that a Secret is labelled autoresearch.dev/usable=true is
# checked by the operator before it uses one. It cannot list them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Whether a data claim can be mounted by many pods.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# What happened, told with `kubectl describe`; and why a Job has no pod.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list, create, patch]
{{- end -}}
