{{- define "smartedge.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Kubernetes changes no template of a job. So another template is another job: helm makes it, and removes the old one. */}}
{{- define "smartedge.trainer" -}}
{{- $hash := include "smartedge.trainer-spec" . | sha256sum | trunc 8 -}}
{{- printf "%s-trainer-%s" (include "smartedge.name" . | trunc 45 | trimSuffix "-") $hash -}}
{{- end -}}

{{- define "smartedge.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "smartedge.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "smartedge.claim" -}}
{{- .Values.store.existingClaim | default (printf "%s-store" (include "smartedge.name" .)) -}}
{{- end -}}

{{/* What every pod has. No pod talks to Kubernetes, and none has a right that it does not need. */}}
{{- define "smartedge.pod" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "smartedge.container" -}}
image: {{ include "smartedge.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* The run's folder in the store. */}}
{{- define "smartedge.run" -}}
/var/lib/smartedge/{{ .Release.Name }}
{{- end -}}

{{/* A volume of one machine: its pods run beside those of ingest. The first of ingest may run anywhere. */}}
{{- define "smartedge.beside-ingest" -}}
{{- if eq .Values.store.accessMode "ReadWriteOnce" }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/name: {{ .Chart.Name }}
            app.kubernetes.io/instance: {{ .Release.Name }}
            app.kubernetes.io/component: ingest
{{- end }}
{{- end -}}
