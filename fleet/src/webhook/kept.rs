//! The webhook's certificates, kept by the fleet: the leader makes and renews them in a Secret and has the webhook configurations say who has
//! signed them; every replica shows what the Secret has. None of these is created here, as the manifest has them: who may create Secrets in a
//! namespace may have tokens of all its service accounts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::issued::Kept;
use super::serve::{Shows, tls};

/// Between two looks: a replica shows a new certificate so long after it is there, at the latest.
const EVERY: Duration = Duration::from_secs(10);
/// Of a request.
const LIMIT: Duration = Duration::from_secs(10);
/// The two kinds of webhook configurations; theirs are of the Secret's name.
const CONFIGURATIONS: [(&str, &str); 2] = [
    ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
];

/// What a round failed at.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0} is not there: apply what `barewire-fleet manifest --admission-listen` prints")]
    Missing(String),
    #[error("{0}: {1}")]
    Request(String, kube::Error),
    #[error("{0}: no answer within {LIMIT:?}")]
    Late(String),
    #[error("make a certificate for {0}: {1}")]
    Issue(String, rcgen::Error),
    #[error("the certificate in Secret {0} cannot be shown: {1:#}")]
    Shown(String, anyhow::Error),
}

/// Keeps them, for ever.
pub struct Keeper {
    client: Client,
    secrets: Api<Secret>,
    /// Of the Secret and of both configurations.
    name: String,
    names: Vec<String>,
    leads: watch::Receiver<bool>,
    shown: watch::Sender<Option<Arc<ServerConfig>>>,
    /// What is shown. PEM.
    certificate: String,
    /// The bundle that both configurations have, and since when, as far as this replica knows.
    published: Option<(String, Instant)>,
    failed: Option<String>,
}

impl Keeper {
    /// Of the Secret `namespace/name` and the webhook configurations `name`; `names` are those by which API servers ask. Also what to show.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, names: Vec<String>, leads: watch::Receiver<bool>) -> (Self, Shows) {
        let (shown, shows) = watch::channel(None);
        let (secrets, name) = (Api::namespaced(client.clone(), namespace), name.to_owned());
        let (certificate, published, failed) = (String::new(), None, None);
        (Self { client, secrets, name, names, leads, shown, certificate, published, failed }, shows)
    }

    /// Never returns.
    pub async fn run(mut self) {
        loop {
            let failed = self.round().await.err().map(|error| error.to_string());
            if let Some(error) = failed.as_ref().filter(|error| self.failed.as_ref() != Some(*error)) {
                tracing::warn!(error, "webhook certificate not kept; tried again every {EVERY:?}");
            }
            self.failed = failed;
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn round(&mut self) -> Result<(), Failed> {
        let found = within("secrets", &self.name, self.secrets.get(&self.name)).await?;
        let kept = found.data.as_ref().and_then(Kept::read);
        if *self.leads.borrow() {
            let kept = self.renewed(found, kept).await?;
            self.show(&kept)?;
            self.publish(&kept.bundle()).await
        } else {
            kept.map_or(Ok(()), |kept| self.show(&kept))
        }
    }

    /// Writes what is due.
    async fn renewed(&self, found: Secret, kept: Option<Kept>) -> Result<Kept, Failed> {
        let (names, now) = (&self.names, SystemTime::now());
        let failed = |error| Failed::Issue(names.join(", "), error);
        let (kept, is_due) = match kept {
            None => (Kept::first(names, now).map_err(failed)?, true),
            Some(kept) => {
                let bundle = kept.bundle();
                let published = self.published.as_ref().filter(|(known, _)| *known == bundle).map(|(_, since)| since.elapsed());
                kept.due(names, now, published).map_err(failed)?.map_or((kept, false), |due| (due, true))
            }
        };
        if is_due {
            // With the version that was found: who has written meanwhile wins.
            let secret = Secret { data: Some(kept.data()), ..found };
            within("secrets", &self.name, self.secrets.replace(&self.name, &PostParams::default(), &secret)).await?;
            tracing::info!(secret = self.name, ?names, "webhook certificate renewed");
        }
        Ok(kept)
    }

    fn show(&mut self, kept: &Kept) -> Result<(), Failed> {
        let shown = &kept.shown;
        if shown.certificate != self.certificate {
            let config = tls(shown.certificate.as_bytes(), shown.key.as_bytes());
            self.shown.send_replace(Some(config.map_err(|error| Failed::Shown(self.name.clone(), error))?));
            self.certificate.clone_from(&shown.certificate);
            tracing::info!(secret = self.name, "webhook certificate shown");
        }
        Ok(())
    }

    /// Has both configurations say the bundle.
    async fn publish(&mut self, bundle: &str) -> Result<(), Failed> {
        let mut is_new = self.published.as_ref().is_none_or(|(known, _)| known != bundle);
        for (kind, plural) in CONFIGURATIONS {
            let configurations = configurations(&self.client, kind, plural);
            let mut object = within(plural, &self.name, configurations.get(&self.name)).await?;
            if say(&mut object.data, &STANDARD.encode(bundle)) {
                within(plural, &self.name, configurations.replace(&self.name, &PostParams::default(), &object)).await?;
                tracing::info!(configuration = self.name, kind = plural, "caBundle written");
                is_new = true;
            }
        }
        if is_new {
            self.published = Some((bundle.to_owned(), Instant::now()));
        }
        Ok(())
    }
}

/// Whether what is kept is there and may be read, each by its name.
pub async fn look(client: &Client, namespace: &str, name: &str) -> Vec<(String, Result<(), String>)> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut found = vec![(format!("get secrets/{name}"), within("secrets", name, secrets.get(name)).await.map(drop))];
    for (kind, plural) in CONFIGURATIONS {
        found.push((format!("get {plural}/{name}"), within(plural, name, configurations(client, kind, plural).get(name)).await.map(drop)));
    }
    found.into_iter().map(|(what, got)| (what, got.map_err(|error| error.to_string()))).collect()
}

fn configurations(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
}

/// Has each webhook of a configuration say the bundle; whether one said another.
fn say(configuration: &mut Value, bundle: &str) -> bool {
    let mut is_changed = false;
    for webhook in configuration["webhooks"].as_array_mut().into_iter().flatten() {
        let client = &mut webhook["clientConfig"];
        if client["caBundle"] != *bundle {
            client["caBundle"] = bundle.into();
            is_changed = true;
        }
    }
    is_changed
}

async fn within<T>(resource: &str, name: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    let what = format!("{resource}/{name}");
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(Failed::Missing(what)),
        Ok(answer) => answer.map_err(|error| Failed::Request(what, error)),
        Err(_) => Err(Failed::Late(what)),
    }
}
