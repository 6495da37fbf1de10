{{/* The admin port of each service. */}}
{{- define "vyzio.services" -}}
gateway: 9000
chat-service: 9001
notify-service: 9002
typing-service: 9003
{{- end }}

{{/* Labels of all objects. */}}
{{- define "vyzio.labels" -}}
app.kubernetes.io/part-of: vyzio-realtime
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels that select all pods of the release. */}}
{{- define "vyzio.all" -}}
app.kubernetes.io/part-of: vyzio-realtime
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels that select the pods of a service. The name is also the Prometheus job. */}}
{{- define "vyzio.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Name of an image. */}}
{{- define "vyzio.image" -}}
{{- $image := .root.Values.image }}
{{- if not $image.repository }}
{{- fail "image.repository is missing: set it to the part of the image names before the service, such as registry.example.com/vyzio (the --prefix of `cargo xtask images`)" }}
{{- end }}
{{- $tag := .values.tag | default $image.tag | default .root.Chart.AppVersion }}
{{- if not $tag }}
{{- fail "image.tag is missing: set it to the tag of the images, such as the commit that `cargo xtask images` printed" }}
{{- end }}
{{- printf "%s/%s:%s" $image.repository .name $tag }}
{{- end }}

{{/* Environment variables of a service that are not secret. */}}
{{- define "vyzio.env" -}}
{{- $env := merge (dict) .paths .values.env .root.Values.env }}
{{- range $name := list "NATS_URL" "DATABASE_URL" "DATABASE_DIRECT_URL" "JWT_SECRET" "JWT_SECRET_PREVIOUS" "BACKEND_KEYS" "WEBHOOK_SECRET" "ADMIN_ADDR" "GATEWAY_ADDR" "PORT" }}
{{- if hasKey $env $name }}
{{- $place := ternary (printf "%s.env" $.key) "env" (hasKey $.values.env $name) }}
{{- if or (hasSuffix "ADDR" $name) (eq $name "PORT") }}
{{- fail (printf "%s has %s: remove it, because the ports of the chart are fixed" $place $name) }}
{{- end }}
{{- fail (printf "%s has the secret %s: put it into the Secret %q, and remove it from the values" $place $name $.values.secret) }}
{{- end }}
{{- end }}
{{- if hasKey $env "JWT_JWKS_URL" }}
{{- fail "env has JWT_JWKS_URL: set gateway.jwksUrl instead, which also adds the network policy" }}
{{- end -}}
- name: ADMIN_ADDR
  value: 0.0.0.0:{{ .port }}
{{- with .values.jwksUrl }}
{{- if not (regexMatch "^https?://[^/]" .) }}
{{- fail (printf "gateway.jwksUrl is %q: set it to an http or https address, such as https://accounts.example.com/jwks.json" .) }}
{{- end }}
- name: JWT_JWKS_URL
  value: {{ . | quote }}
{{- end }}
{{- if and (dig "limits" "cpu" "" .values.resources) (not (hasKey $env "TOKIO_WORKER_THREADS")) }}
- name: TOKIO_WORKER_THREADS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
      divisor: "1"
{{- end }}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/*
Hash of a service's Secret: because of it, an upgrade restarts the pods if the Secret has changed. Empty if the Secret
can't be read, as with `helm template`.
*/}}
{{- define "vyzio.secretHash" -}}
{{- $data := (lookup "v1" "Secret" .root.Release.Namespace .values.secret).data }}
{{- if $data }}
{{- $secret := printf "Secret %q in the namespace %q" .values.secret .root.Release.Namespace }}
{{- $needed := list "NATS_URL" }}
{{- if has .name (list "chat-service" "notify-service") }}
{{- $needed = append $needed "DATABASE_URL" }}
{{- end }}
{{- range $name := $needed }}
{{- if not (hasKey $data $name) }}
{{- fail (printf "%s has no %s: add it, or set %s.secret to the name of another Secret" $secret $name $.key) }}
{{- end }}
{{- end }}
{{- if eq .name "gateway" }}
{{- $keys := list }}
{{- range $name := list "JWT_SECRET" "JWT_PUBLIC_KEY" "JWT_JWKS_URL" }}
{{- if hasKey $data $name }}
{{- $keys = append $keys $name }}
{{- end }}
{{- end }}
{{- if has "JWT_JWKS_URL" $keys }}
{{- fail (printf "%s has JWT_JWKS_URL: set gateway.jwksUrl instead, which also adds the network policy" $secret) }}
{{- end }}
{{- if and .values.jwksUrl $keys }}
{{- fail (printf "%s has %s, and gateway.jwksUrl is set: remove one of them" $secret (first $keys)) }}
{{- end }}
{{- if not (or .values.jwksUrl $keys) }}
{{- fail (printf "%s has no key for tokens: add JWT_SECRET or JWT_PUBLIC_KEY, or set gateway.jwksUrl" $secret) }}
{{- end }}
{{- end }}
{{- toJson $data | sha256sum }}
{{- end }}
{{- end }}

{{/* Hash of the Secret with the endpoints of webhooks, as above. */}}
{{- define "vyzio.webhooksHash" -}}
{{- $data := (lookup "v1" "Secret" .Release.Namespace .Values.webhooksSecret).data }}
{{- if $data }}
{{- if not (hasKey $data "webhooks.toml") }}
{{- fail (printf "Secret %q in the namespace %q has no webhooks.toml: add it, or set webhooksSecret to the name of another Secret" .Values.webhooksSecret .Release.Namespace) }}
{{- end }}
{{- toJson $data | sha256sum }}
{{- end }}
{{- end }}
