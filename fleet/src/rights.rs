//! What the API server has to grant: the manifest asks for it, and `--dry-run` looks whether it is there. What acts on nodes needs is asked for
//! where it acts, and no more of it than that part needs.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::acting::{self, Mode};
use crate::watches::{ALL, NODES, Watched};

/// Verbs on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, with its subresource.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// Where; everywhere if there is none.
    pub namespace: Option<&'static str>,
}

/// Why a right is not there.
#[derive(Debug, thiserror::Error)]
pub enum NotGranted {
    /// The API server says so.
    #[error("{0} is not granted: apply what `barewire-fleet manifest` prints with the same flags")]
    Verb(&'static str),
    /// It did not say.
    #[error("{0}")]
    Kube(#[from] kube::Error),
}

/// What of the leader is switched on; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Acting {
    /// Teams' nodes.
    pub teams: Option<Mode>,
    /// Nodes' health.
    pub health: Option<Mode>,
    /// New nodes.
    pub preflight: Option<Mode>,
    /// Nodes that have nothing to do are checked again.
    pub preflight_again: bool,
    /// Teams are an object, no file.
    pub teams_object: bool,
}

impl Acting {
    /// Are nodes looked at?
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.teams.is_some() || self.health.is_some() || self.preflight.is_some()
    }

    /// Is anything written?
    #[must_use]
    pub fn writes(self) -> bool {
        [self.teams, self.health, self.preflight].contains(&Some(Mode::Apply))
    }
}

const fn right(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right { group, resource, verbs, namespace: None }
}

/// All that is needed beside the Lease and the namespace `kube-system`.
#[must_use]
pub fn needed(acting: Acting) -> Vec<Right> {
    const WATCH: &[&str] = &["list", "watch"];
    let watched = |Watched { group, resource, .. }| right(group, resource, WATCH);
    let mut rights: Vec<_> = ALL.into_iter().chain(acting.is_on().then_some(NODES)).map(watched).collect();
    if acting.teams_object {
        rights.push(right(acting::GROUP, acting::RESOURCE, WATCH));
    }
    if acting.writes() {
        rights.push(right("", "nodes", &["get", "patch"]));
        // Where Events of what has no namespace are.
        rights.push(Right { namespace: Some("default"), ..right("", "events", &["create"]) });
    }
    let checks_again = acting.preflight_again && acting.preflight == Some(Mode::Apply);
    if acting.health == Some(Mode::Apply) || checks_again {
        rights.push(right("", "pods", &["list"]));
    }
    if acting.health == Some(Mode::Apply) {
        rights.push(right("", "pods/eviction", &["create"]));
    }
    rights
}

impl Right {
    /// Asks whether all of it is granted.
    ///
    /// # Errors
    /// The first verb that is not, or the API server's error.
    pub async fn granted(self, client: &Client) -> Result<(), NotGranted> {
        let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
        for verb in self.verbs {
            let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
            let attributes = ResourceAttributes {
                group: Some(self.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(subresource.to_owned()),
                namespace: self.namespace.map(str::to_owned),
                verb: Some((*verb).to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let answer = reviews.create(&PostParams::default(), &review).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                return Err(NotGranted::Verb(verb));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_act_may_not_write() {
        let (dry, apply) = (Some(Mode::DryRun), Some(Mode::Apply));
        for (teams, health, preflight, expected) in [
            (None, None, None, "services:list+watch endpointslices:list+watch"),
            (dry, dry, dry, "services:list+watch endpointslices:list+watch nodes:list+watch"),
            (apply, None, None, "services:list+watch endpointslices:list+watch nodes:list+watch nodes:get+patch events:create"),
            (None, None, apply, "services:list+watch endpointslices:list+watch nodes:list+watch nodes:get+patch events:create"),
            (
                dry,
                apply,
                None,
                "services:list+watch endpointslices:list+watch nodes:list+watch nodes:get+patch events:create pods:list pods/eviction:create",
            ),
        ] {
            let rights = needed(Acting { teams, health, preflight, ..Acting::default() });
            let rights: Vec<_> = rights.iter().map(|right| format!("{}:{}", right.resource, right.verbs.join("+"))).collect();
            assert_eq!(rights.join(" "), expected);
        }
        let again = needed(Acting { preflight: apply, preflight_again: true, ..Acting::default() });
        assert_eq!(again.last(), Some(&right("", "pods", &["list"])));
        let with_object = needed(Acting { teams: dry, teams_object: true, ..Acting::default() });
        assert_eq!(with_object.last(), Some(&right("barewire.cloud", "teams", &["list", "watch"])));
    }
}
