//! The environment of one execution (section 2, "Parameters"), parsed and checked as a whole.
//!
//! Each operation reads the variables that it needs, and what is in the others is not looked at: a DEL must not fail for an
//! odd `CNI_ARGS`.

use serde::{Deserialize, Serialize};

use crate::{Attachment, Code, Error};

/// Whose pod it is, as kubelet's runtimes say in `CNI_ARGS`. Each may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodIdentity {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`
    pub uid: String,
}

/// The operation asked for (`CNI_COMMAND`), with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Attach a container to the network.
    Add {
        /// The container and the interface to make in it.
        attachment: Attachment,
        /// The network namespace's path.
        netns: String,
        /// The pod behind the container.
        pod: PodIdentity,
    },
    /// Ask whether the attachment is as it was made.
    Check {
        /// The container and its interface.
        attachment: Attachment,
        /// The network namespace's path.
        netns: String,
    },
    /// Detach it. The namespace may be gone, and is not asked for.
    Del(Attachment),
    /// Remove what is not in the list of valid attachments.
    Gc,
    /// Ask whether an ADD would succeed.
    Status,
    /// Ask for the versions spoken.
    Version,
}

/// Longer than any path a kernel accepts (`PATH_MAX`).
const VALUE_MAX: usize = 4096;
const COMMANDS: &str = "ADD, DEL, CHECK, STATUS, GC or VERSION";

const COMMAND: usize = 0;
const CONTAINERID: usize = 1;
const NETNS: usize = 2;
const IFNAME: usize = 3;
const ARGS: usize = 4;
const VARIABLES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

impl Invocation {
    /// Reads the parameters out of `environment`. Everything that is wrong with what the operation needs is reported at once.
    ///
    /// # Errors
    /// [`Code::InvalidEnvironment`]: a variable is missing, given twice, too long or illegal.
    pub fn from_environment(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut parameters = Parameters::collect(environment);
        match parameters.invocation() {
            Some(invocation) if parameters.wrong.is_empty() => Ok(invocation),
            _ => Err(Error::new(Code::InvalidEnvironment, parameters.wrong.join("; "))),
        }
    }
}

#[derive(Default)]
struct Variable {
    value: Option<String>,
    fault: Option<String>,
}

#[derive(Default)]
struct Parameters {
    variables: [Variable; VARIABLES.len()],
    /// Of the operation, as it is spelled.
    command: String,
    wrong: Vec<String>,
}

impl Parameters {
    fn collect(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut parameters = Self::default();
        for (key, value) in environment {
            let Some(index) = VARIABLES.iter().position(|name| *name == key) else { continue };
            let variable = &mut parameters.variables[index];
            if value.len() > VALUE_MAX {
                variable.fault = Some(format!("{key} is {} bytes long; at most {VALUE_MAX} are allowed", value.len()));
            } else if variable.value.is_some() {
                variable.fault = Some(format!("{key} is set twice; set it once"));
            } else {
                variable.value = Some(value);
            }
        }
        parameters
    }

    fn invocation(&mut self) -> Option<Invocation> {
        self.command = self.take(COMMAND).filter(|text| !text.is_empty()).or_else(|| {
            self.fault(format!("CNI_COMMAND is not set; set it to {COMMANDS}"));
            None
        })?;
        match self.command.as_str() {
            "ADD" => {
                let (attachment, netns, pod) = (self.attachment(), self.netns(), self.pod());
                Some(Invocation::Add { attachment: attachment?, netns: netns?, pod })
            }
            "CHECK" => {
                let (attachment, netns) = (self.attachment(), self.netns());
                Some(Invocation::Check { attachment: attachment?, netns: netns? })
            }
            "DEL" => self.attachment().map(Invocation::Del),
            "GC" => Some(Invocation::Gc),
            "STATUS" => Some(Invocation::Status),
            "VERSION" => Some(Invocation::Version),
            unknown => {
                let fault = format!("CNI_COMMAND {unknown:?} is unknown; use {COMMANDS}");
                self.fault(fault);
                None
            }
        }
    }

    fn attachment(&mut self) -> Option<Attachment> {
        let (container_id, ifname) = (self.parse(CONTAINERID), self.parse(IFNAME));
        Some(Attachment { container_id: container_id?, ifname: ifname? })
    }

    fn netns(&mut self) -> Option<String> {
        let was_faulty = self.variables[NETNS].fault.is_some();
        let netns = self.take(NETNS).filter(|text| !text.is_empty());
        if netns.is_none() && !was_faulty {
            self.fault(format!("CNI_NETNS is not set; {} needs the path of the network namespace", self.command));
        }
        netns
    }

    /// `CNI_ARGS` is `KEY=VALUE;KEY=VALUE`. Keys of others are none of our business, `IgnoreUnknown` or not, and a value may
    /// have a `=`; the reference library refuses both. What is no pair at all is refused here as there.
    fn pod(&mut self) -> PodIdentity {
        let mut pod = PodIdentity::default();
        let args = self.take(ARGS).unwrap_or_default();
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("K8S_POD_NAMESPACE", value)) => value.clone_into(&mut pod.namespace),
                Some(("K8S_POD_NAME", value)) => value.clone_into(&mut pod.name),
                Some(("K8S_POD_UID", value)) => value.clone_into(&mut pod.uid),
                Some(_) => {}
                None => self.fault(format!("CNI_ARGS has {pair:?}, which is not KEY=VALUE")),
            }
        }
        pod
    }

    fn parse<T: std::str::FromStr<Err = String>>(&mut self, index: usize) -> Option<T> {
        let was_faulty = self.variables[index].fault.is_some();
        let variable = VARIABLES[index];
        match self.take(index).map(|value| value.parse()) {
            Some(Ok(value)) => Some(value),
            Some(Err(why)) => {
                self.fault(format!("{variable} {why}"));
                None
            }
            None if was_faulty => None,
            None => {
                self.fault(format!("{variable} is not set; {} needs it", self.command));
                None
            }
        }
    }

    /// The value, with what is wrong about it noted.
    fn take(&mut self, index: usize) -> Option<String> {
        let Variable { value, fault } = std::mem::take(&mut self.variables[index]);
        self.wrong.extend(fault);
        value
    }

    fn fault(&mut self, fault: String) {
        self.wrong.push(fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Invocation, Error> {
        Invocation::from_environment(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    const ADD: [(&str, &str); 4] =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

    const NEEDS: [(&str, &[&str]); 6] = [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("GC", &[]),
        ("STATUS", &[]),
        ("VERSION", &[]),
    ];

    fn verb_with(verb: &'static str, variable: &'static str, values: &[&'static str]) -> Vec<(&'static str, &'static str)> {
        let mut pairs: Vec<_> = ADD.into_iter().filter(|(key, _)| *key != variable).collect();
        pairs[0].1 = verb;
        pairs.extend(values.iter().map(|value| (variable, *value)));
        pairs
    }

    #[test]
    fn table_2_each_verb_needs_its_variables() {
        for (verb, needed) in NEEDS {
            for (variable, _) in &ADD[1..] {
                let outcome = read(&verb_with(verb, variable, &[]));
                assert_eq!(outcome.is_err(), needed.contains(variable), "{verb} without {variable}: {outcome:?}");
                if let Err(error) = outcome {
                    assert!(error.msg.contains(variable), "{error}");
                }
            }
        }
    }

    #[test]
    fn no_verb_looks_at_what_it_does_not_need() {
        let long: &'static str = "x".repeat(5000).leak();
        for (verb, needed) in NEEDS {
            for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"] {
                for values in [&[long][..], &["a", "b"], &["a/b c"], &[""], &["oops;A=B=C;;"]] {
                    let looks = needed.contains(&variable) || (verb, variable) == ("ADD", "CNI_ARGS");
                    let outcome = read(&verb_with(verb, variable, values));
                    assert!(looks || outcome.is_ok(), "{verb} with {variable} = {values:.20?}: {outcome:?}");
                }
            }
        }
    }

    #[test]
    fn pod_identity_is_read_and_foreign_keys_are_ignored() {
        let mut pairs = ADD.to_vec();
        pairs.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=team-a;;K8S_POD_NAME=train-0;K8S_POD_UID=u;X=a=b;"));
        let Ok(Invocation::Add { pod, .. }) = read(&pairs) else { panic!("no ADD") };
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("team-a", "train-0", "u"));
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let long = "x".repeat(5000);
        let error = read(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", &long),
            ("CNI_IFNAME", "a/b"),
            ("CNI_ARGS", "oops"),
        ])
        .unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment);
        for part in ["CNI_COMMAND is set twice", "CNI_CONTAINERID", "5000", "CNI_NETNS", "a/b", "oops"] {
            assert!(error.msg.contains(part), "{part} missing in: {error}");
        }
    }

    #[test]
    fn missing_or_unknown_command() {
        assert!(read(&[]).unwrap_err().msg.contains("CNI_COMMAND is not set"));
        assert!(read(&[("CNI_COMMAND", "add")]).unwrap_err().msg.contains("\"add\""));
    }
}
