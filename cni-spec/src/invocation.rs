//! The environment of one execution (section 2, "Parameters"), parsed and checked as a whole.

use serde::{Deserialize, Serialize};

use crate::{Code, ContainerId, Error, IfName};

/// The operation asked for (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach a container to the network.
    Add,
    /// Detach it.
    Del,
    /// Ask whether the attachment is as it was made.
    Check,
    /// Ask whether an ADD would succeed.
    Status,
    /// Remove what is not in the list of valid attachments.
    Gc,
    /// Ask for the versions spoken.
    Version,
}

impl Command {
    const NAMES: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("STATUS", Self::Status),
        ("GC", Self::Gc),
        ("VERSION", Self::Version),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, command)| *command == self).map_or("?", |(name, _)| name)
    }

    /// Whether section 2 requires `variable` for this operation.
    fn requires(self, variable: &str) -> bool {
        match variable {
            "CNI_CONTAINERID" | "CNI_IFNAME" => matches!(self, Self::Add | Self::Del | Self::Check),
            // A DEL may come when the namespace is gone: then the variable is empty or absent.
            "CNI_NETNS" => matches!(self, Self::Add | Self::Check),
            _ => false,
        }
    }
}

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

/// One execution's parameters. Only what the operation uses is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// Present for ADD, DEL and CHECK.
    pub container_id: Option<ContainerId>,
    /// Present for ADD, DEL and CHECK.
    pub ifname: Option<IfName>,
    /// The network namespace's path; present for ADD and CHECK, maybe for DEL.
    pub netns: Option<String>,
    /// The pod behind the container.
    pub pod: PodIdentity,
}

/// Longer than any path a kernel accepts (`PATH_MAX`).
const VALUE_MAX: usize = 4096;
const VARIABLES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

impl Invocation {
    /// Reads the parameters out of `environment`. Everything that is wrong is reported at once.
    ///
    /// # Errors
    /// [`Code::InvalidEnvironment`]: a variable is missing, given twice, too long or illegal.
    pub fn from_environment(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut wrong = Vec::new();
        let mut values: [Option<String>; VARIABLES.len()] = Default::default();
        for (key, value) in environment {
            let Some(index) = VARIABLES.iter().position(|name| *name == key) else { continue };
            if value.len() > VALUE_MAX {
                wrong.push(format!("{key} is {} bytes long; at most {VALUE_MAX} are allowed", value.len()));
            } else if values[index].is_some() {
                wrong.push(format!("{key} is set twice; set it once"));
            } else {
                values[index] = Some(value);
            }
        }
        let [command, container_id, netns, ifname, args] = values;
        let Some(command) = command.filter(|text| !text.is_empty()) else {
            wrong.push("CNI_COMMAND is not set; set it to ADD, DEL, CHECK, STATUS, GC or VERSION".into());
            return Err(invalid(&wrong));
        };
        let Some((_, command)) = Command::NAMES.into_iter().find(|(name, _)| *name == command) else {
            wrong.push(format!("CNI_COMMAND {command:?} is unknown; use ADD, DEL, CHECK, STATUS, GC or VERSION"));
            return Err(invalid(&wrong));
        };
        let netns = netns.filter(|text| !text.is_empty());
        if netns.is_none() && command.requires("CNI_NETNS") {
            wrong.push(format!("CNI_NETNS is not set; {} needs the path of the network namespace", command.name()));
        }
        let container_id = parse("CNI_CONTAINERID", container_id, command, &mut wrong);
        let ifname = parse("CNI_IFNAME", ifname, command, &mut wrong);
        let pod = args.as_deref().map_or_else(PodIdentity::default, |text| pod_identity(text, &mut wrong));
        if wrong.is_empty() { Ok(Self { command, container_id, ifname, netns, pod }) } else { Err(invalid(&wrong)) }
    }
}

fn parse<T: std::str::FromStr<Err = String>>(
    variable: &str,
    value: Option<String>,
    command: Command,
    wrong: &mut Vec<String>,
) -> Option<T> {
    if !command.requires(variable) {
        return None;
    }
    let Some(value) = value else {
        wrong.push(format!("{variable} is not set; {} needs it", command.name()));
        return None;
    };
    value.parse().map_err(|why| wrong.push(format!("{variable} {why}"))).ok()
}

/// `CNI_ARGS` is `KEY=VALUE;KEY=VALUE`. Keys of others are none of our business.
fn pod_identity(args: &str, wrong: &mut Vec<String>) -> PodIdentity {
    let mut pod = PodIdentity::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            wrong.push(format!("CNI_ARGS has {pair:?}, which is not KEY=VALUE"));
            continue;
        };
        match key {
            "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut pod.name),
            "K8S_POD_UID" => value.clone_into(&mut pod.uid),
            _ => {}
        }
    }
    pod
}

fn invalid(wrong: &[String]) -> Error {
    Error::new(Code::InvalidEnvironment, wrong.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Invocation, Error> {
        Invocation::from_environment(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    const ADD: [(&str, &str); 4] =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

    #[test]
    fn table_2_each_verb_needs_its_variables() {
        let needs: [(&str, &[&str]); 6] = [
            ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
            ("GC", &[]),
            ("STATUS", &[]),
            ("VERSION", &[]),
        ];
        for (verb, needed) in needs {
            for (variable, _) in &ADD[1..] {
                let mut pairs: Vec<_> = ADD.into_iter().filter(|(key, _)| key != variable).collect();
                pairs[0].1 = verb;
                let outcome = read(&pairs);
                assert_eq!(outcome.is_err(), needed.contains(variable), "{verb} without {variable}: {outcome:?}");
                if let Err(error) = outcome {
                    assert!(error.msg.contains(variable), "{error}");
                }
            }
        }
    }

    #[test]
    fn pod_identity_is_read_and_foreign_keys_are_ignored() {
        let mut pairs = ADD.to_vec();
        pairs.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=train-0;K8S_POD_UID=u;X=a=b"));
        let pod = read(&pairs).unwrap().pod;
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
