{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- define "bpfence.name" -}}
{{- if contains "bpfence" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-bpfence" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end -}}

{{- define "bpfence.labels" -}}
app.kubernetes.io/name: bpfence
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Arguments: the root, the component. */ -}}
{{- define "bpfence.selector" -}}
app.kubernetes.io/name: bpfence
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "bpfence.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}
