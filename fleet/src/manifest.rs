//! What a cluster needs for the fleet: a service account with the rights that the watches take and no others, and a Deployment on the
//! machines of the control plane.

use std::fmt::Write;

use crate::watches::{self, Watched};

/// What differs between clusters.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of everything that is made, the Lease included.
    pub namespace: String,
    /// The container image.
    pub image: String,
    /// How many.
    pub replicas: u32,
    /// All replicas as nodes reach them, `host:port`.
    pub addresses: Vec<String>,
}

/// The name of all objects, of the Lease and of the secret with `ca.crt`, `tls.crt` and `tls.key`.
pub const NAME: &str = "barewire-fleet";

/// The manifest, YAML.
#[must_use]
pub fn manifest(settings: &Settings) -> String {
    let Settings { namespace, image, replicas, addresses } = settings;
    let mut rules = String::new();
    for Watched { group, resource, .. } in watches::ALL {
        let _ = write!(rules, "\n  - {{apiGroups: ['{group}'], resources: [{resource}], verbs: [list, watch]}}");
    }
    let labels = format!("labels: {{app.kubernetes.io/name: {NAME}}}");
    let addresses = if addresses.is_empty() { String::new() } else { format!("\n            - --replicas={}", addresses.join(",")) };
    format!(
        "# Made by `barewire-fleet manifest`; docs/fleet.md says how it is meant.
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {NAME}, namespace: {namespace}}}
---
# What all nodes need of the API server, and which cluster it is. Nothing is written but the Lease.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {NAME}}}
rules:{rules}
  - {{apiGroups: [''], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {NAME}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {NAME}}}
subjects:
  - {{kind: ServiceAccount, name: {NAME}, namespace: {namespace}}}
---
# A name cannot be given to what is created.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {NAME}, namespace: {namespace}}}
rules:
  - {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}}
  - {{apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{NAME}], verbs: [get, update]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {NAME}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {NAME}}}
subjects:
  - {{kind: ServiceAccount, name: {NAME}, namespace: {namespace}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: {NAME}, namespace: {namespace}}}
spec:
  maxUnavailable: 1
  selector: {{matchLabels: {{app.kubernetes.io/name: {NAME}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {NAME}, namespace: {namespace}, {labels}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app.kubernetes.io/name: {NAME}}}}}
  # One a machine, and its ports are the machine's: the old one goes first.
  strategy: {{rollingUpdate: {{maxUnavailable: 1, maxSurge: 0}}}}
  template:
    metadata: {{{labels}}}
    spec:
      serviceAccountName: {NAME}
      # It comes up before there is a pod network, a Service or a DNS of the cluster.
      hostNetwork: true
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      nodeSelector: {{node-role.kubernetes.io/control-plane: ''}}
      tolerations:
        - {{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}}
        - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}}
        - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoSchedule}}
        - {{key: node.kubernetes.io/network-unavailable, operator: Exists, effect: NoSchedule}}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {{matchLabels: {{app.kubernetes.io/name: {NAME}}}}}
      # Nodes are sent on within 30 s, and given 5 more.
      terminationGracePeriodSeconds: 45
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: fleet
          image: {image}
          command: [barewire-fleet]
          args:
            - --authority=/etc/barewire-fleet/ca.crt
            - --certificate=/etc/barewire-fleet/tls.crt
            - --key=/etc/barewire-fleet/tls.key
            - --lease-namespace={namespace}
            - --advertise=$(HOST_IP):7443{addresses}
          env:
            - {{name: HOST_IP, valueFrom: {{fieldRef: {{fieldPath: status.hostIP}}}}}}
          ports:
            - {{name: nodes, containerPort: 7443}}
          # /readyz and /metrics are on the machine's loopback, as they have no authentication; kubelet is on the same machine.
          readinessProbe: {{httpGet: {{host: 127.0.0.1, port: 7444, path: /readyz}}}}
          # Not readiness: what has not been listed yet is no reason to start anew, nor is an API server that is away.
          livenessProbe: {{httpGet: {{host: 127.0.0.1, port: 7444, path: /metrics}}, periodSeconds: 30, timeoutSeconds: 10, failureThreshold: 4}}
          resources:
            requests: {{cpu: 100m, memory: 256Mi}}
            limits: {{memory: 1Gi}}
          securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
          volumeMounts:
            - {{name: credentials, mountPath: /etc/barewire-fleet, readOnly: true}}
      volumes:
        - {{name: credentials, secret: {{secretName: {NAME}, defaultMode: 0440}}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_in_deploy_is_what_the_program_writes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/barewire-fleet.yaml");
        let settings =
            Settings { namespace: "kube-system".to_owned(), image: "barewire-fleet:latest".to_owned(), replicas: 3, addresses: Vec::new() };
        let is = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            is == manifest(&settings),
            "deploy/barewire-fleet.yaml: write it anew: barewire-fleet manifest > deploy/barewire-fleet.yaml"
        );
    }
}
