{{/* What everything is named: at most 40 letters, so that LeaderWorkerSet can append its numbers. */}}
{{- define "troupe.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "troupe.labels" -}}
app.kubernetes.io/name: troupe
app.kubernetes.io/instance: {{ include "troupe.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* A pod's spec; `role` is leader or worker, and only a leader serves HTTP. */}}
{{- define "troupe.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    app.kubernetes.io/name: troupe
    app.kubernetes.io/instance: {{ include "troupe.name" $root }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  # Requests in flight are finished first, which takes at most 60 s.
  terminationGracePeriodSeconds: 75
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: troupe
      image: {{ printf "%s:%s" $values.image.repository (default $root.Chart.AppVersion $values.image.tag) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - serve
        - {{ $values.model.path | quote }}
        - --served-model-name={{ $values.model.name }}
        - --tensor-parallel-size={{ $values.parallel.tensor }}
        - --pipeline-parallel-size={{ $values.parallel.pipeline }}
        - --identity-dir=/etc/troupe/identity
        - --config=/etc/troupe/config/troupe.yaml
      {{- if $values.apiKeySecret }}
      env:
        - name: TROUPE_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ $values.apiKeySecret }}
              key: api-key
      {{- end }}
      ports:
        {{- if eq .role "leader" }}
        - name: http
          containerPort: 8000
        {{- end }}
        - name: group
          containerPort: 7411
          protocol: UDP
      {{- if eq .role "leader" }}
      # It answers at once, whether or not the model is loaded.
      startupProbe:
        httpGet:
          path: /version
          port: http
        periodSeconds: 2
        failureThreshold: 300
      livenessProbe:
        httpGet:
          path: /version
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
      # While the group serves.
      readinessProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 2
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: identity
          mountPath: /etc/troupe/identity
          readOnly: true
        - name: config
          mountPath: /etc/troupe/config
          readOnly: true
        - name: models
          mountPath: /models
          readOnly: true
        - name: state
          mountPath: /var/lib/troupe
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: identity
      secret:
        secretName: {{ $values.identity.secret }}
        defaultMode: 0440
    - name: config
      configMap:
        name: {{ include "troupe.name" $root }}
    - name: models
      {{- toYaml $values.model.volume | nindent 6 }}
    - name: state
      emptyDir: {}
    - name: tmp
      emptyDir: {}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
