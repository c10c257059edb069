//! What a cluster needs for the fleet: a service account with the rights that it takes and no others, a class of requests of its own, and a
//! Deployment on the machines of the control plane. With a file of teams: the file, and the policies of admission that are made of it.

mod definition;
mod teams;
mod webhook;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use teams::Teams;

use crate::acting::Mode;
use crate::rights::{Acting, Right, needed};

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
    /// The file of teams.
    pub teams: Option<Teams>,
    /// The name of the object of teams, instead of a file.
    pub teams_object: Option<String>,
    /// What of the leader is switched on.
    pub acting: Acting,
    /// The taint of new nodes, where it is another.
    pub preflight_taint: Option<String>,
    /// Flags with numbers, where they are not the default.
    pub numbers: Vec<(&'static str, u64)>,
    /// Who takes over nodes that nobody mends: a program of the image.
    pub hook: Option<PathBuf>,
    /// Where each API server asks a replica on its own machine about pods, instead of policies of admission.
    pub webhook: Option<SocketAddr>,
}

/// The name of all objects, of the Lease and of the secret with `ca.crt`, `tls.crt` and `tls.key`.
pub const NAME: &str = "barewire-fleet";

/// The manifest, YAML.
#[must_use]
pub fn manifest(settings: &Settings) -> String {
    let Settings { namespace, image, replicas, addresses, teams, teams_object, acting, preflight_taint, numbers, hook, webhook } = settings;
    let (mut rules, mut of_default, mut of_own) = (String::new(), String::new(), String::new());
    for Right { group, resource, verbs, namespace } in needed(*acting) {
        let rules = if namespace.is_some() { &mut of_default } else { &mut rules };
        let _ = write!(rules, "\n  - {{apiGroups: ['{group}'], resources: [{resource}], verbs: [{}]}}", verbs.join(", "));
    }
    let writes = match acting.writes() {
        false => "Nothing is written but the Lease.",
        true => "Written are nodes, and what is told of them.",
    };
    let events = if of_default.is_empty() { String::new() } else { events(namespace, &of_default) };
    let mut switches = String::new();
    for (flag, mode) in [("teams-mode", acting.teams), ("health-mode", acting.health), ("preflight-mode", acting.preflight)] {
        if let Some(mode) = mode {
            let mode = if mode == Mode::Apply { "apply" } else { "dry-run" };
            let _ = write!(switches, "\n            - --{flag}={mode}");
        }
    }
    if let Some(name) = teams_object {
        let _ = write!(switches, "\n            - --teams-resource={name}");
    }
    if let Some(key) = preflight_taint {
        let _ = write!(switches, "\n            - --preflight-taint={key}");
    }
    for (flag, number) in numbers {
        let _ = write!(switches, "\n            - --{flag}={number}");
    }
    if let Some(hook) = hook {
        let _ = write!(switches, "\n            - --health-forced-hook={}", hook.display());
    }
    if let Some(listen) = webhook {
        let _ = write!(switches, "\n            - --admission-listen={listen}\n            - --admission-secret={}", webhook::NAME);
        rules.push_str(&webhook::rules());
        of_own.push_str(&webhook::own_rules());
    }
    let admission = webhook.map(|listen| webhook::objects(namespace, listen)).unwrap_or_default();
    let (mount, volume) = teams.as_ref().map_or_else(Default::default, |_| {
        let _ = write!(switches, "\n            - --teams=/etc/barewire-fleet-teams/teams.yaml");
        (teams::MOUNT, teams::VOLUME)
    });
    let of_teams = |teams: &Teams| match webhook {
        None => teams.objects(namespace, acting.teams.unwrap_or_default()),
        Some(_) => teams.file(namespace),
    };
    let teams = teams.as_ref().map(of_teams).unwrap_or_default();
    let definition = teams_object.as_ref().map(|_| format!("---\n{:#}\n", definition::definition())).unwrap_or_default();
    let labels = format!("labels: {{app.kubernetes.io/name: {NAME}}}");
    let addresses = if addresses.is_empty() { String::new() } else { format!("\n            - --replicas={}", addresses.join(",")) };
    format!(
        "# Made by `barewire-fleet manifest`; docs/fleet.md says how it is meant.
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {NAME}, namespace: {namespace}}}
---
# What all nodes need of the API server, and which cluster it is. {writes}
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
  - {{apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [{NAME}], verbs: [get, update]}}{of_own}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {NAME}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {NAME}}}
subjects:
  - {{kind: ServiceAccount, name: {NAME}, namespace: {namespace}}}
---{events}
# Its requests wait in no queue behind others': it is asked when the API server is in trouble.
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{name: {NAME}}}
spec:
  # Before kube-system-service-accounts (900).
  matchingPrecedence: 850
  priorityLevelConfiguration: {{name: workload-high}}
  distinguisherMethod: {{type: ByUser}}
  rules:
    - subjects:
        - {{kind: ServiceAccount, serviceAccount: {{name: {NAME}, namespace: {namespace}}}}}
      resourceRules:
        - {{apiGroups: ['*'], resources: ['*'], verbs: ['*'], clusterScope: true, namespaces: ['*']}}
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
            - --advertise=$(HOST_IP):7443{addresses}{switches}
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
            - {{name: credentials, mountPath: /etc/barewire-fleet, readOnly: true}}{mount}
      volumes:
        - {{name: credentials, secret: {{secretName: {NAME}, defaultMode: 0440}}}}{volume}
{admission}{teams}{definition}"
    )
}

/// The right to what is written in namespace `default`.
fn events(namespace: &str, rules: &str) -> String {
    format!(
        "
# Events of nodes are in namespace default.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {NAME}-events, namespace: default}}
rules:{rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {NAME}-events, namespace: default}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {NAME}-events}}
subjects:
  - {{kind: ServiceAccount, name: {NAME}, namespace: {namespace}}}
---"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(teams: Option<Teams>, acting: Acting) -> Settings {
        let (namespace, image) = ("kube-system".to_owned(), "barewire-fleet:latest".to_owned());
        let (addresses, numbers) = (Vec::new(), Vec::new());
        Settings {
            namespace,
            image,
            replicas: 3,
            addresses,
            teams,
            teams_object: None,
            acting,
            preflight_taint: None,
            numbers,
            hook: None,
            webhook: None,
        }
    }

    /// That a real API server takes all of it is a test of `tests/cluster_watch`.
    #[test]
    fn what_is_switched_on_is_in_the_manifest_and_no_more() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/teams.yaml");
        let teams = || Some(Teams::read(std::path::Path::new(file)).unwrap());
        let (dry, apply) = (Some(Mode::DryRun), Some(Mode::Apply));
        let writes = ["verbs: [get, patch]", "resources: [events]"];
        let text = manifest(&settings(teams(), Acting { teams: dry, health: dry, preflight: dry, ..Acting::default() }));
        assert!(writes.iter().all(|part| !text.contains(part)) && text.contains("resources: [nodes], verbs: [list, watch]"), "{text}");
        assert!(text.contains("--teams-mode=dry-run") && text.contains("\"Warn\"") && !text.contains("kind\": \"Mutating"), "{text}");
        let text = manifest(&settings(teams(), Acting { teams: apply, health: dry, ..Acting::default() }));
        assert!(writes.iter().all(|part| text.contains(part)) && !text.contains("pods/eviction"), "{text}");
        assert!(
            text.contains("--teams-mode=apply") && text.contains("\"Deny\"") && text.contains("MutatingAdmissionPolicyBinding"),
            "{text}"
        );
        let taint = Some("example.com/new".to_owned());
        let of_new = Settings { preflight_taint: taint, ..settings(None, Acting { preflight: apply, ..Acting::default() }) };
        assert!(manifest(&of_new).contains("- --preflight-taint=example.com/new"));
        let text = manifest(&settings(None, Acting { health: apply, preflight: apply, ..Acting::default() }));
        assert!(text.contains("pods/eviction") && !text.contains("teams.yaml") && text.contains("--health-mode=apply"), "{text}");
        assert!(text.contains("--preflight-mode=apply") && !text.contains("--health-quiet"), "{text}");
        let hasty = Settings { numbers: vec![("health-quiet", 60)], ..settings(None, Acting { health: apply, ..Acting::default() }) };
        assert!(manifest(&hasty).contains("- --health-quiet=60"));
        let forcing = Settings { hook: Some("/end-node".into()), ..settings(None, Acting { health: apply, ..Acting::default() }) };
        assert!(manifest(&forcing).contains("- --health-forced-hook=/end-node"));
        let of_object = Acting { teams: apply, teams_object: true, ..Acting::default() };
        let of_object = manifest(&Settings { teams_object: Some("main".to_owned()), ..settings(None, of_object) });
        assert!(of_object.contains("- --teams-resource=main") && of_object.contains("CustomResourceDefinition"), "{of_object}");
        assert!(of_object.contains("{apiGroups: ['barewire.cloud'], resources: [teams], verbs: [list, watch]}"), "{of_object}");
        let asked = Settings {
            webhook: Some("127.0.0.1:7445".parse().unwrap()),
            ..settings(teams(), Acting { teams: apply, ..Acting::default() })
        };
        let asked = manifest(&asked);
        assert!(asked.contains("- --admission-listen=127.0.0.1:7445") && asked.contains("https://127.0.0.1:7445/validate"), "{asked}");
        assert!(asked.contains("teams.yaml") && !asked.contains("AdmissionPolicy"), "{asked}");
        for document in [text, of_object, asked].iter().flat_map(|text| text.split("\n---\n")) {
            serde_saphyr::from_str::<serde_json::Value>(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        }
    }

    #[test]
    fn the_manifest_in_deploy_is_what_the_program_writes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/barewire-fleet.yaml");
        let is = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            is == manifest(&settings(None, Acting::default())),
            "deploy/barewire-fleet.yaml: write it anew: barewire-fleet manifest > deploy/barewire-fleet.yaml"
        );
    }
}
