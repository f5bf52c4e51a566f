{{- define "language-finetune.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Labels by which the pods are selected: they never change, or an upgrade fails. */ -}}
{{- define "language-finetune.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* Labels that the operator gives every training pod (wire.LABEL_MANAGED_BY, wire.LABEL_COMPONENT). */ -}}
{{- define "language-finetune.trainingPodLabels" -}}
app.kubernetes.io/managed-by: language-finetune
app.kubernetes.io/component: trainer
{{- end -}}

{{- define "language-finetune.labels" -}}
{{ include "language-finetune.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "language-finetune.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "language-finetune.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "language-finetune.certificateSecret" -}}
{{- .Values.certificate.existingSecret | default (printf "%s-certificate" (include "language-finetune.fullname" .)) -}}
{{- end -}}

{{- /* Takes a dict of `image` and `version`. */ -}}
{{- define "language-finetune.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .version) -}}
{{- end -}}
{{- end -}}

{{- /* What the operator may do in a namespace that it serves. */ -}}
{{- define "language-finetune.rules" -}}
- apiGroups: [langops.dev]
  resources: [languagefinetunes]
  verbs: [get, list, watch]
- apiGroups: [langops.dev]
  resources: [languagefinetunes/status]
  verbs: [patch]
# Where OwnerReferencesPermissionEnforcement is on, owning an object takes this right.
- apiGroups: [langops.dev]
  resources: [languagefinetunes/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, get, list, patch, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# The plan of a run; it goes with its owner, so nothing is deleted.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Read for a Job that gets no pod: quotas and refusals stand nowhere else.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end -}}
