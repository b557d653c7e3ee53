{{/* What the chart's pods have in common. */}}

{{/* Where the database is. No value here is secret; those come from a secret, as variables or as files. */}}
{{- define "stepwell.databaseEnv" -}}
{{- $database := .Values.database -}}
{{- if $database.direct.host }}
{{- with $database.direct }}
- name: STEPWELL_DATABASE_URL
  value: {{ printf "postgresql://%s@%s:%v/%s" (urlquery .user) .host .port (urlquery .name) | quote }}
{{- end }}
{{- if $database.existingSecret }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret }}
      key: {{ $database.direct.passwordKey }}
{{- end }}
{{- else if $database.asFiles }}
- name: STEPWELL_DATABASE_URL_FILE
  value: /etc/stepwell/database/direct-url
{{- else }}
- name: STEPWELL_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret }}
      key: {{ $database.directUrlKey }}
{{- end }}
{{- if and $database.poolUrlKey $database.asFiles }}
- name: STEPWELL_POOL_URL_FILE
  value: /etc/stepwell/database/pool-url
{{- else if $database.poolUrlKey }}
- name: STEPWELL_POOL_URL
  valueFrom:
    secretKeyRef:
      name: {{ $database.existingSecret }}
      key: {{ $database.poolUrlKey }}
{{- end }}
- name: STEPWELL_SCHEMA
  value: {{ $database.schema | quote }}
{{- with $database.sslMode }}
- name: PGSSLMODE
  value: {{ . }}
{{- end }}
{{- if $database.caSecret }}
- name: PGSSLROOTCERT
  value: /etc/stepwell/database-ca/ca.crt
{{- end }}
{{- end -}}

{{/* The volumes that reaching the database takes. */}}
{{- define "stepwell.databaseVolumes" -}}
{{- $database := .Values.database -}}
{{- if $database.asFiles }}
- name: database
  secret:
    secretName: {{ $database.existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ $database.directUrlKey }}
        path: direct-url
      {{- if $database.poolUrlKey }}
      - key: {{ $database.poolUrlKey }}
        path: pool-url
      {{- end }}
{{- end }}
{{- if $database.caSecret }}
- name: database-ca
  secret:
    secretName: {{ $database.caSecret }}
    defaultMode: 0440
    items:
      - key: {{ $database.caKey }}
        path: ca.crt
{{- end }}
{{- end -}}

{{- define "stepwell.databaseMounts" -}}
{{- if .Values.database.asFiles }}
- name: database
  mountPath: /etc/stepwell/database
  readOnly: true
{{- end }}
{{- if .Values.database.caSecret }}
- name: database-ca
  mountPath: /etc/stepwell/database-ca
  readOnly: true
{{- end }}
{{- end -}}

{{/* What the service takes from the database's side, and all who come with it: a container's env, volumes, mounts. */}}
{{- define "stepwell.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- include "stepwell.databaseVolumes" . }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "stepwell.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- include "stepwell.databaseMounts" . }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "stepwell.tlsVolumes" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "stepwell.tlsSecret" . }}
    defaultMode: 0440
{{- with .Values.tls.clientCA }}
{{- if .existingSecret }}
- name: client-ca
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "stepwell.tlsMounts" -}}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/stepwell/tls
  readOnly: true
{{- if .Values.tls.clientCA.existingSecret }}
- name: client-ca
  mountPath: /etc/stepwell/client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "stepwell.otlpEnv" -}}
{{- with .Values.otlp }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .protocol | quote }}
{{- if .headers.existingSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ .headers.existingSecret }}
      key: {{ .headers.key }}
{{- end }}
{{- with .sampler }}
- name: OTEL_TRACES_SAMPLER
  value: {{ . | quote }}
{{- end }}
{{- with .samplerArgument }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ . | quote }}
{{- end }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "stepwell.resourceAttributes" $ | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "stepwell.resourceAttributes" -}}
k8s.pod.name=$(POD_NAME),service.instance.id=$(POD_NAME),k8s.namespace.name={{ .Release.Namespace }}
{{- range $name, $value := .Values.otlp.resourceAttributes }},{{ $name }}={{ $value }}{{ end }}
{{- end -}}

{{/* Variables that are no secret, of the service alone: a ConfigMap's. */}}
{{- define "stepwell.settings" -}}
{{- $ports := include "stepwell.ports" . | fromYaml -}}
STEPWELL_HOST: {{ .Values.listenHost | quote }}
STEPWELL_PORT: {{ $ports.grpc | quote }}
{{- if .Values.metrics.enabled }}
STEPWELL_METRICS_HOST: {{ .Values.listenHost | quote }}
STEPWELL_METRICS_PORT: {{ $ports.metrics | quote }}
{{- end }}
STEPWELL_SHUTDOWN_SECONDS: {{ include "stepwell.text" .Values.shutdownSeconds | quote }}
STEPWELL_REQUIRE_KEYS: {{ .Values.auth.requireKeys | quote }}
STEPWELL_OPEN_REFLECTION: {{ .Values.auth.openReflection | quote }}
{{- with .Values.auth.jwtIssuers }}
STEPWELL_JWT_ISSUERS: {{ toJson . | quote }}
{{- end }}
{{- if .Values.tls.enabled }}
STEPWELL_HEALTH_HOST: {{ .Values.listenHost | quote }}
STEPWELL_HEALTH_PORT: {{ $ports.health | quote }}
STEPWELL_TLS_CERTIFICATE_FILE: /etc/stepwell/tls/tls.crt
STEPWELL_TLS_KEY_FILE: /etc/stepwell/tls/tls.key
{{- if .Values.tls.clientCA.existingSecret }}
STEPWELL_TLS_CLIENT_CA_FILE: /etc/stepwell/client-ca/ca.crt
STEPWELL_TLS_CLIENT_CERTIFICATES: {{ .Values.tls.clientCertificates }}
{{- if include "stepwell.hasClientsPort" . }}
STEPWELL_TLS_CLIENT_PORT: {{ $ports.clients | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if kindIs "map" $value }}
{{- range $inner, $each := $value }}
STEPWELL_{{ upper $name }}__{{ upper $inner }}: {{ include "stepwell.text" $each | quote }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
STEPWELL_{{ upper $name }}: {{ include "stepwell.text" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The container that migrates, for a Job and for an init container. */}}
{{- define "stepwell.migrate" -}}
name: migrate
image: {{ include "stepwell.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: ["stepwell-server"]
args: ["migrate"]
env:
  {{- include "stepwell.databaseEnv" . | trim | nindent 2 }}
  {{- with .Values.settings.log_level }}
  - name: STEPWELL_LOG_LEVEL
    value: {{ . }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "stepwell.mounts" . | nindent 2 }}
resources:
  {{- toYaml .Values.migrations.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{/* Of every pod. Services' variables would be taken for settings: that of a service `stepwell` is STEPWELL_PORT. */}}
{{- define "stepwell.podBasics" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe. Takes (list . PROBE). Kubernetes' gRPC probes speak no TLS, so with it they go to the health port. */}}
{{- define "stepwell.probe" -}}
{{- $probe := index . 1 -}}
grpc:
  port: {{ get (include "stepwell.ports" (index . 0) | fromYaml) (ternary "health" "grpc" (index . 0).Values.tls.enabled) }}
  service: {{ $probe.service | quote }}
{{- range $name, $value := omit $probe "service" }}
{{ $name }}: {{ $value }}
{{- end }}
{{- end -}}

{{/* Waits while services hear that the pod is going; the image needs no `sleep` for it. */}}
{{- define "stepwell.preStop" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
sleep:
  seconds: {{ .Values.preStopSeconds }}
{{- else -}}
exec:
  command: ["python", "-c", "import time; time.sleep({{ .Values.preStopSeconds }})"]
{{- end -}}
{{- end -}}

{{- define "stepwell.grace" -}}
{{- $least := add .Values.preStopSeconds (ceil .Values.shutdownSeconds) 10 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if and $given (lt (int64 $given) $least) -}}
{{- fail (printf "terminationGracePeriodSeconds is %v: it must be at least %v (preStopSeconds + shutdownSeconds + 10), or pods are killed at work. Leave it out to have it so" $given $least) -}}
{{- end -}}
{{- $given | default $least -}}
{{- end -}}
