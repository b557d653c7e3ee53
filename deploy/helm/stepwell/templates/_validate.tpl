{{/* What contradicts itself is refused here, with what to do about it. The schema knows names and types only. */}}
{{- define "stepwell.validate" -}}
{{- $database := .Values.database -}}
{{- if not (or $database.existingSecret $database.direct.host) -}}
{{- fail "database.existingSecret is not set: give the name of a secret with the address of a Postgres (key `url`), or database.direct.host" -}}
{{- end -}}
{{- if and $database.poolUrlKey (not $database.existingSecret) -}}
{{- fail "database.poolUrlKey names a key of database.existingSecret, which is not set" -}}
{{- end -}}
{{- if and $database.asFiles $database.direct.host -}}
{{- fail "database.asFiles is about addresses in the secret, and database.direct.host stands in their place: set one of them" -}}
{{- end -}}
{{- if and .Values.tls.enabled .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled: the certificate can come from one of them only" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) (not .Values.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs a certificate: set tls.existingSecret, or tls.certManager.enabled with an issuer" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is not set: who issues the certificate?" -}}
{{- end -}}
{{- if and (not .Values.tls.enabled) (or .Values.tls.existingSecret .Values.tls.certManager.enabled .Values.tls.clientCA.existingSecret) -}}
{{- fail "there are certificates, and tls.enabled is false: set it to true, or take them away" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilizationPercentage) (not .Values.autoscaling.metrics) -}}
{{- fail "autoscaling has nothing to go by: set autoscaling.targetCPUUtilizationPercentage or autoscaling.metrics" -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs is empty: name the gateway" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is not set" -}}
{{- end -}}
{{- if and (or .Values.metrics.serviceMonitor.enabled) (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled" -}}
{{- end -}}
{{- end -}}
