{{/* Names, labels, addresses. */}}

{{- define "stepwell.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for the longest suffix that a name gets here. */}}
{{- define "stepwell.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 42 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a Deployment selects: it can't change in an upgrade. Takes (list . COMPONENT). */}}
{{- define "stepwell.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "stepwell.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Takes (list . COMPONENT). */}}
{{- define "stepwell.labels" -}}
{{- $root := index . 0 -}}
{{ include "stepwell.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: stepwell
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object: everybody's and its own. Takes (list . MAP INDENTATION); empty if there are none. */}}
{{- define "stepwell.annotations" -}}
{{- $all := merge (dict) (index . 1 | default dict) ((index . 0).Values.commonAnnotations | default dict) -}}
{{- if $all -}}
{{- printf "annotations:\n%s" (toYaml $all | indent 2) | nindent (index . 2) -}}
{{- end -}}
{{- end -}}

{{- define "stepwell.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "stepwell.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Hooks that come before an installation have an account of their own: the release's is not there yet. */}}
{{- define "stepwell.migrationsAccount" -}}
{{- if and .Values.serviceAccount.create .Values.migrations.useHelmHooks -}}
{{- printf "%s-migrations" (include "stepwell.fullname" .) -}}
{{- else -}}
{{- include "stepwell.serviceAccount" . -}}
{{- end -}}
{{- end -}}

{{- define "stepwell.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stepwell.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- printf "%s-tls" (include "stepwell.fullname" .) -}}
{{- else -}}
{{- .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The address within the cluster. */}}
{{- define "stepwell.address" -}}
{{- printf "%s.%s.svc.%s:%v" (include "stepwell.fullname" .) .Release.Namespace .Values.clusterDomain .Values.service.port -}}
{{- end -}}

{{/* The ports of the pods. They are nobody's to choose: services have theirs. */}}
{{- define "stepwell.ports" -}}
grpc: 7233
clients: 7234
health: 7235
metrics: 9464
{{- end -}}

{{/* Whether there is a second port, on which callers must show a certificate. Empty: no. */}}
{{- define "stepwell.hasClientsPort" -}}
{{- if and .Values.tls.clientCA.existingSecret (eq .Values.tls.clientCertificates "optional") -}}true{{- end -}}
{{- end -}}

{{/* A setting as text: whole numbers without an exponent, lists as JSON. */}}
{{- define "stepwell.text" -}}
{{- if kindIs "slice" . -}}
{{- toJson . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Whether `helm test` has what it takes: keys where they are asked for, a certificate where it is. Empty: no. */}}
{{- define "stepwell.hasTest" -}}
{{- $test := .Values.helmTest -}}
{{- $hasKeys := or (not .Values.auth.requireKeys) $test.existingSecret -}}
{{- $asksCertificate := and .Values.tls.clientCA.existingSecret (eq .Values.tls.clientCertificates "require") -}}
{{- if and $test.enabled $hasKeys (or (not $asksCertificate) $test.tlsSecret) -}}true{{- end -}}
{{- end -}}
