{{- define "modelfleet.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Takes (list root component). */}}
{{- define "modelfleet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: modelfleet
{{- end -}}

{{/* Takes (list root component). */}}
{{- define "modelfleet.labels" -}}
{{- $root := index . 0 -}}
{{ include "modelfleet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Takes (list image default-tag). The digest pins; a tag override is for clusters where images have no digest. */}}
{{- define "modelfleet.image" -}}
{{- $image := index . 0 -}}
{{- if $image.tagOverride -}}
{{ printf "%s:%s" $image.repository $image.tagOverride }}
{{- else if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default (index . 1)) }}
{{- end -}}
{{- end -}}

{{- define "modelfleet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "modelfleet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "modelfleet.identity" -}}
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
{{- end -}}

{{/* Takes (list root values-of-the-workload). */}}
{{- define "modelfleet.scheduling" -}}
{{- $values := index . 1 -}}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "modelfleet.grantsSecret" -}}
{{- .Values.grants.existingSecret | default (printf "%s-grants" (include "modelfleet.fullname" .)) -}}
{{- end -}}

{{/* By the address that Kubernetes tells every pod of its namespace's Services, so that no DNS is needed. The Service is made before the pod. */}}
{{- define "modelfleet.gatewayURL" -}}
{{- $service := printf "%s-gateway" (include "modelfleet.fullname" .) | upper | replace "-" "_" | replace "." "_" -}}
{{- .Values.teams.gatewayURL | default (printf "http://$(%s_SERVICE_HOST):%v" $service .Values.gateway.service.port) -}}
{{- end -}}

{{/* Resolvers may be pods, or listen on the node; 5353 is where some distributions' DNS pods listen behind port 53. */}}
{{- define "modelfleet.dnsEgress" -}}
- ports:
  - { port: 53, protocol: UDP }
  - { port: 53, protocol: TCP }
  - { port: 5353, protocol: UDP }
  - { port: 5353, protocol: TCP }
{{- end -}}
