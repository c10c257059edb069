//! What a person shows to replicas: files, or the certificate of a kubeconfig.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::config::{Kubeconfig, KubeconfigError};
use serde_json::Value;

use crate::tls::Credentials;

/// Files that are named instead of what a kubeconfig has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Who signs the replicas.
    pub authority: Option<PathBuf>,
    /// What to show.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// A file that cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no kubeconfig, or a bad one.
    #[error("no kubeconfig: {0}; name one by --kubeconfig or KUBECONFIG, or what to show by --authority, --certificate and --key")]
    Kubeconfig(#[from] KubeconfigError),
    /// It shows something else to the API server: a token, or a program's word.
    #[error("the kubeconfig has no {0} in the context {1:?}: name what to show to replicas by --authority, --certificate and --key")]
    Lacks(&'static str, String),
}

impl Shown {
    /// What is in the files; what of them is not named is the kubeconfig's, with the authority of its cluster.
    ///
    /// # Errors
    /// See [`ShownError`].
    pub fn credentials(&self, kubeconfig: Option<&Path>) -> Result<Credentials, ShownError> {
        if let Self { authority: Some(authority), certificate: Some(certificate), key: Some(key) } = self {
            return Ok(Credentials { authority: read(authority)?, certificate: read(certificate)?, key: read(key)? });
        }
        let kubeconfig = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from)?;
        // As it is written: secrets are types of their own otherwise.
        let known = serde_json::to_value(kubeconfig).unwrap_or_default();
        let context = known["current-context"].as_str().unwrap_or_default().to_owned();
        let of_context = &named(&known["contexts"], &context)["context"];
        let cluster = &named(&known["clusters"], of_context["cluster"].as_str().unwrap_or_default())["cluster"];
        let user = &named(&known["users"], of_context["user"].as_str().unwrap_or_default())["user"];
        let lacks = |what| ShownError::Lacks(what, context.clone());
        let one = |file: &Option<PathBuf>, of: &Value, key: &'static str| match file {
            Some(file) => read(file),
            None => written(of, key)?.ok_or_else(|| lacks(key)),
        };
        Ok(Credentials {
            authority: one(&self.authority, cluster, "certificate-authority")?,
            certificate: one(&self.certificate, user, "client-certificate")?,
            key: one(&self.key, user, "client-key")?,
        })
    }
}

/// What is called so in a list of a kubeconfig.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().into_iter().flatten().find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

/// In it, as base64, or in a file that it names.
fn written(of: &Value, key: &str) -> Result<Option<Vec<u8>>, ShownError> {
    if let Some(data) = of[format!("{key}-data")].as_str() {
        return Ok(BASE64_STANDARD.decode(data.trim()).ok());
    }
    of[key].as_str().map(|path| read(Path::new(path))).transpose()
}

fn read(path: &Path) -> Result<Vec<u8>, ShownError> {
    std::fs::read(path).map_err(|source| ShownError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_has_it_in_itself_or_in_files_and_files_that_are_named_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        file("ca.crt", "an authority");
        let key = file("other.key", "another key");
        let config = |user: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, current-context: b, \
                 contexts: [{{name: a, context: {{cluster: x, user: x}}}}, {{name: b, context: {{cluster: c, user: u}}}}], \
                 clusters: [{{name: c, cluster: {{server: 'https://x', certificate-authority: ca.crt}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
            );
            file("kubeconfig", &text)
        };
        let both = "client-certificate-data: YSBjZXJ0aWZpY2F0ZQ==, client-key-data: YSBrZXk=";
        let text = |credentials: Credentials| {
            [credentials.authority, credentials.certificate, credentials.key].map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let shown = Shown::default();
        assert_eq!(text(shown.credentials(Some(&config(both))).unwrap()), ["an authority", "a certificate", "a key"]);
        let named = Shown { key: Some(key), ..Shown::default() };
        assert_eq!(text(named.credentials(Some(&config(both))).unwrap()), ["an authority", "a certificate", "another key"]);
        let error = shown.credentials(Some(&config("token: abc"))).unwrap_err().to_string();
        assert!(error.contains("no client-certificate in the context \"b\"") && error.contains("--certificate"), "{error}");
        let error = shown.credentials(Some(&folder.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("--kubeconfig"), "{error}");
    }
}
