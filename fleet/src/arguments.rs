//! The command line.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use fleet::acting::Mode;
use fleet::admission::Limits;
use fleet::rights::Acting;
use fleet::status::Shown;
use fleet_plans::preflight;

#[derive(Debug, Parser)]
#[command(name = "barewire-fleet", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
/// Watch the API server for all nodes, and tell each what it needs
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    serve: Option<Serve>,
    #[command(flatten)]
    acts: Acts,
    #[command(flatten)]
    admission: Admission,
}

impl Cli {
    /// What to do instead of serving, and what to serve with.
    pub(crate) fn parts(self) -> (Option<Task>, Option<Serve>) {
        let Self { task, serve, acts, admission } = self;
        (task, serve.map(|serve| Serve { acts, admission, ..serve }))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Write what a cluster needs for the fleet: rights and a Deployment, as YAML
    Manifest {
        /// Where all of it is
        #[arg(long, default_value = "kube-system")]
        namespace: String,
        /// The container image
        #[arg(long, default_value = "barewire-fleet:latest")]
        image: String,
        /// How many
        #[arg(long, default_value_t = 3)]
        count: u32,
        /// All replicas as nodes reach them, host:port
        #[arg(long, value_delimiter = ',')]
        replicas: Vec<String>,
        /// Instead of policies of admission a webhook, for API servers that have none: where each asks the replica on its own machine
        #[arg(long, value_name = "ADDRESS", requires = "of_teams")]
        admission_listen: Option<SocketAddr>,
        #[command(flatten)]
        acts: Acts,
    },
    /// List the nodes that are sick, have been, or are quarantined
    Nodes {
        /// Those that are well, too
        #[arg(long)]
        all: bool,
        /// For people or programs
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Output,
        #[command(flatten)]
        by: By,
    },
    /// Ask about one node
    Node {
        /// Its name
        name: String,
        #[command(subcommand)]
        what: NodeTask,
    },
    /// Take away the taint that the fleet or a person has put on a node
    Pardon {
        /// Its name
        name: String,
        #[command(flatten)]
        by: By,
    },
    /// Keep new pods away from a node until somebody pardons it
    Quarantine {
        /// Its name
        name: String,
        /// Why, in words
        #[arg(long, default_value = "")]
        reason: String,
        /// Who, as the taint has it [default: USER, or person]
        #[arg(long = "by", value_name = "PERSON")]
        who: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Say that what tripped the breaker is over
    ResetBreaker {
        #[command(flatten)]
        by: By,
    },
    /// Say how the fleet stands: its replicas, and nodes that are not in step
    Status {
        /// Nodes that are in step, too
        #[arg(long)]
        all: bool,
        /// For people or programs
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Output,
        /// Replicas to ask first, host:port; without them the API server is asked which one leads
        #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
        server: Vec<String>,
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        by: By,
    },
    /// Say who keeps an API server busy, and what it refuses
    ApiserverTop {
        /// How to reach the API server; the server that answers is the one that is looked at
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// Looks
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
        samples: u32,
        /// Seconds between two looks
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
        every: u64,
        /// The server's audit log, which names user agents (kube-apiserver's --audit-log-path)
        #[arg(long, value_name = "FILE")]
        audit_log: Option<PathBuf>,
        /// Lines
        #[arg(long, default_value_t = 20)]
        lines: usize,
        /// For a program
        #[arg(long)]
        json: bool,
    },
}

/// How a person reaches the API server.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// How to reach the API server [default: KUBECONFIG, ~/.kube/config, or as a pod does]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease that says which replica leads
    #[arg(long, default_value = "kube-system")]
    pub(crate) lease_namespace: String,
    /// Its name
    #[arg(long, default_value = "barewire-fleet")]
    pub(crate) lease: String,
}

/// What a person shows to replicas, instead of the kubeconfig's.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Who signs the replicas' certificates, PEM [default: the authority of the kubeconfig's cluster]
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// What to show to replicas, PEM [default: the client certificate of the kubeconfig]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl From<Files> for Shown {
    fn from(Files { authority, certificate, key }: Files) -> Self {
        Self { authority, certificate, key }
    }
}

/// What of one node is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeTask {
    /// Say what is on the node, what was seen, and what happens next and why
    Explain {
        /// For people or programs
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Output,
        #[command(flatten)]
        by: By,
    },
    /// Have a node that is drained make its preflight again
    Preflight {
        /// Who, as the node's annotation has it [default: USER, or person]
        #[arg(long = "by", value_name = "PERSON")]
        who: Option<String>,
        /// The taint of new nodes
        #[arg(long, value_name = "KEY", default_value = preflight::KEY)]
        preflight_taint: String,
        #[command(flatten)]
        by: By,
    },
}

/// For whom an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// People
    Table,
    /// Programs
    Json,
    /// Programs and people
    Yaml,
}

impl Output {
    /// An answer in this form.
    pub(crate) fn print(self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> anyhow::Result<String> {
        Ok(match self {
            Self::Table => text(),
            Self::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
            Self::Yaml => format!("---\n{}", serde_saphyr::to_string(value)?),
        })
    }
}

/// What a person asks, without how.
#[derive(Debug)]
pub(crate) enum Asked {
    Nodes { all: bool, output: Output },
    Explain { name: String, output: Output },
    Pardon { name: String },
    Quarantine { name: String, reason: String, by: String },
    Preflight { name: String, by: String, taint: String },
    ResetBreaker,
}

/// What the leader does to nodes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Acts {
    /// The file of teams; without it, and without --teams-resource, nodes are no team's business
    #[arg(long, value_name = "FILE", group = "of_teams")]
    pub(crate) teams: Option<PathBuf>,
    /// The object of teams instead of a file: its name in the API server (teams.barewire.cloud)
    #[arg(long, value_name = "NAME", group = "of_teams")]
    pub(crate) teams_resource: Option<String>,
    /// Whether nodes are given to teams, or it is only said which would be
    #[arg(long, value_name = "MODE", default_value = "dry-run", requires = "of_teams")]
    pub(crate) teams_mode: Mode,
    /// Whether sick nodes are tainted, or it is only said which would be; without it, and without --teams, health is not looked at
    #[arg(long, value_name = "MODE")]
    pub(crate) health_mode: Option<Mode>,
    /// Whether the taint of new nodes is lifted when their preflight has passed, or it is only said of which; without it the taint is not looked at
    #[arg(long, value_name = "MODE")]
    pub(crate) preflight_mode: Option<Mode>,
    /// Which taint that is
    #[arg(long, value_name = "KEY", default_value = preflight::KEY, requires = "preflight_mode")]
    pub(crate) preflight_taint: String,
    /// Days after its last preflight that a node without pods makes it again; 0 is never
    #[arg(long, value_name = "DAYS", default_value_t = 0, requires = "preflight_mode", value_parser = clap::value_parser!(u64).range(..=3_650))]
    pub(crate) preflight_every: u64,
    /// Seconds in which nothing is done about sick nodes after a replica has begun to lead, or many streams broke at once
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) health_quiet: u64,
    /// Seconds after which the pods of a node that is still sick are evicted
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) health_drain_after: u64,
    /// Seconds after which a node that is still sick is overdue: pods of Jobs are evicted as well, and the hook is called where there is one
    #[arg(long, value_name = "SECONDS", default_value_t = 604_800, value_parser = clap::value_parser!(u64).range(..=7_776_000))]
    pub(crate) health_overdue_after: u64,
    /// A program that takes over an overdue node, to have it ended: its argument is the node's name, its standard input what was seen
    #[arg(long, value_name = "PROGRAM", requires = "health_mode", value_parser = absolute)]
    pub(crate) health_forced_hook: Option<PathBuf>,
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("write its absolute path".to_owned()) }
}

impl Acts {
    /// That the hook can be executed, here: a manifest names one of its image.
    pub(crate) fn judge_hook(&self) -> anyhow::Result<()> {
        let Some(hook) = &self.health_forced_hook else { return Ok(()) };
        let mode = std::fs::metadata(hook).with_context(|| format!("--health-forced-hook {}", hook.display()))?.permissions().mode();
        ensure!(mode & 0o111 != 0, "--health-forced-hook {}: it cannot be executed: chmod +x", hook.display());
        Ok(())
    }

    /// Flags with numbers that were given.
    pub(crate) fn numbers(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("preflight-every", self.preflight_every, 0),
            ("health-quiet", self.health_quiet, 600),
            ("health-drain-after", self.health_drain_after, 300),
            ("health-overdue-after", self.health_overdue_after, 604_800),
        ];
        all.into_iter().filter(|(_, given, default)| given != default).map(|(flag, given, _)| (flag, given)).collect()
    }

    /// One of both switches the leader on; what is not said to apply is a dry run.
    pub(crate) fn acting(&self) -> Acting {
        let teams_object = self.teams_resource.is_some();
        let teams = (self.teams.is_some() || teams_object).then_some(self.teams_mode);
        let health = self.health_mode.or(teams.map(|_| Mode::DryRun)).or(self.preflight_mode.map(|_| Mode::DryRun));
        Acting { teams, health, preflight: self.preflight_mode, preflight_again: self.preflight_every > 0, teams_object }
    }
}

/// The webhook of admission.
#[derive(Debug, Default, Args)]
pub(crate) struct Admission {
    /// Where API servers ask what of a pod is added or refused (POST /mutate, /validate); without it they do not
    #[arg(long, value_name = "ADDRESS", requires_all = ["of_admission", "of_teams"])]
    pub(crate) admission_listen: Option<SocketAddr>,
    /// What to show to them, PEM; its names are those of the webhook configuration
    #[arg(long, value_name = "FILE", group = "of_admission", requires = "admission_key")]
    pub(crate) admission_certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "admission_certificate")]
    pub(crate) admission_key: Option<PathBuf>,
    /// Instead of files: the Secret beside the Lease in which the leader keeps a certificate of its own making, and the name of the webhook
    /// configurations that it tells who has signed it
    #[arg(long, value_name = "NAME", group = "of_admission", requires = "admission_listen")]
    pub(crate) admission_secret: Option<String>,
    /// Names and addresses by which API servers ask, for that certificate; alike on all replicas. Needed where it is not listened on a loopback
    /// address
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "admission_secret")]
    pub(crate) admission_names: Vec<String>,
}

impl Admission {
    /// By which names API servers ask a replica that listens there. Whoever leads makes the certificate of all replicas, so none of them may
    /// take an address of its own machine alone.
    pub(crate) fn names(&self, listen: SocketAddr) -> anyhow::Result<Vec<String>> {
        if !self.admission_names.is_empty() {
            return Ok(self.admission_names.clone());
        }
        let address = listen.ip();
        ensure!(
            address.is_loopback(),
            "--admission-listen {listen}: say by --admission-names, alike on all replicas, by which names API servers ask"
        );
        Ok(vec![address.to_string()])
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Only look: at the files, the API server and the rights there
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where nodes connect
    #[arg(long, default_value = "0.0.0.0:7443")]
    pub(crate) listen: SocketAddr,
    /// Where /readyz and /metrics are; without authentication, so for loopback
    #[arg(long, default_value = "127.0.0.1:7444")]
    pub(crate) telemetry: SocketAddr,
    /// Who signs the nodes' certificates, PEM
    #[arg(long)]
    pub(crate) authority: PathBuf,
    /// What to show to nodes, PEM; its name is barewire-fleet
    #[arg(long)]
    pub(crate) certificate: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    pub(crate) key: PathBuf,
    /// How to reach the API server [default: as a pod does]
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where nodes reach this replica, host:port
    #[arg(long)]
    pub(crate) advertise: Option<String>,
    /// All replicas as nodes reach them, host:port, this one included
    #[arg(long, value_delimiter = ',')]
    pub(crate) replicas: Vec<String>,
    /// Namespace of the Lease that says which replica leads
    #[arg(long, default_value = "kube-system")]
    pub(crate) lease_namespace: String,
    /// Its name
    #[arg(long, default_value = "barewire-fleet")]
    pub(crate) lease: String,
    /// Handshakes a second
    #[arg(long, default_value_t = Limits::default().handshakes_per_second)]
    pub(crate) handshakes: u32,
    /// Nodes at a time
    #[arg(long, default_value_t = Limits::default().nodes)]
    pub(crate) nodes: usize,
    /// Of [`Cli`]: whether a struct is there cannot be told of one that has others in it.
    #[arg(skip)]
    pub(crate) acts: Acts,
    /// Likewise.
    #[arg(skip)]
    pub(crate) admission: Admission,
    /// Nodes that the leader writes to, and pods that it evicts, a second
    #[arg(long, default_value_t = 5)]
    pub(crate) acts_per_second: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(more: &[&str]) -> Result<(Option<Task>, Option<Serve>), clap::Error> {
        let files = ["--authority=a", "--certificate=b", "--key=c"];
        Cli::try_parse_from([&["barewire-fleet"], &files[..], more].concat()).map(Cli::parts)
    }

    #[test]
    fn what_is_said_reaches_who_serves() {
        Cli::command().debug_assert();
        let serve = |more: &[&str]| parsed(more).unwrap().1.unwrap();
        assert_eq!(serve(&[]).acts.acting(), Acting::default(), "nothing acts by itself");
        let Acting { teams, health, .. } = serve(&["--teams=t"]).acts.acting();
        assert_eq!((teams, health), (Some(Mode::DryRun), Some(Mode::DryRun)));
        let Acting { teams, health, .. } = serve(&["--health-mode=apply"]).acts.acting();
        assert_eq!((teams, health), (None, Some(Mode::Apply)));
        let Acting { teams, health, preflight, .. } = serve(&["--preflight-mode=apply"]).acts.acting();
        assert_eq!((teams, health, preflight), (None, Some(Mode::DryRun), Some(Mode::Apply)));
        let Acting { teams, teams_object, .. } = serve(&["--teams-resource=main", "--teams-mode=apply"]).acts.acting();
        assert_eq!((teams, teams_object), (Some(Mode::Apply), true));
        let both = parsed(&["--teams=t", "--teams-resource=main"]).unwrap_err().to_string();
        assert!(both.contains("'--teams <FILE>' cannot be used with '--teams-resource <NAME>'"), "{both}");
        let webhook =
            ["--teams=t", "--teams-mode=apply", "--admission-listen=127.0.0.1:1", "--admission-certificate=d", "--admission-key=e"];
        let serve = serve(&webhook);
        assert_eq!((serve.acts.acting().teams, serve.admission.admission_listen.is_some()), (Some(Mode::Apply), true));
        let names = |more: &str| {
            let [a, b] = ["--teams=t", "--admission-secret=s"];
            let admission = parsed(&[&[a, b][..], &more.split(' ').collect::<Vec<_>>()].concat()).unwrap().1.unwrap().admission;
            admission.names(admission.admission_listen.unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(names("--admission-listen=127.0.0.1:1").unwrap(), ["127.0.0.1"]);
        assert_eq!(names("--admission-listen=0.0.0.0:1 --admission-names=a,b").unwrap(), ["a", "b"]);
        assert!(names("--admission-listen=10.0.0.1:1").unwrap_err().contains("10.0.0.1:1: say by --admission-names"));
        for wrong in [
            &["--teams-mode=apply"][..],
            &["--teams=t", "--admission-listen=127.0.0.1:1"],
            &["--teams=t", "--admission-listen=127.0.0.1:1", "--admission-certificate=d"],
            &["--teams=t", "--admission-listen=127.0.0.1:1", "--admission-certificate=d", "--admission-key=e", "--admission-secret=s"],
            &["--teams=t", "--admission-secret=s"],
            &["--teams=t", "--teams-mode=on"],
            &["--preflight-taint=x"],
            &["--preflight-every=7"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        let manifest = Cli::try_parse_from(["barewire-fleet", "manifest", "--teams=t", "--teams-mode=apply"]).unwrap().parts().0;
        assert!(matches!(manifest, Some(Task::Manifest { acts, .. }) if acts.acting().writes()));
        assert!(Cli::try_parse_from(["barewire-fleet"]).is_err(), "the files are missing");
    }
}
