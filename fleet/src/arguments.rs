//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use fleet::acting::Mode;
use fleet::admission::Limits;
use fleet::rights::Acting;
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
    ResetBreaker,
}

/// What the leader does to nodes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Acts {
    /// The file of teams; without it nodes are no team's business
    #[arg(long, value_name = "FILE")]
    pub(crate) teams: Option<PathBuf>,
    /// Whether nodes are given to teams, or it is only said which would be
    #[arg(long, value_name = "MODE", default_value = "dry-run", requires = "teams")]
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
}

impl Acts {
    /// One of both switches the leader on; what is not said to apply is a dry run.
    pub(crate) fn acting(&self) -> Acting {
        let teams = self.teams.is_some().then_some(self.teams_mode);
        let health = self.health_mode.or(teams.map(|_| Mode::DryRun)).or(self.preflight_mode.map(|_| Mode::DryRun));
        Acting { teams, health, preflight: self.preflight_mode }
    }
}

/// The webhook of admission.
#[derive(Debug, Default, Args)]
pub(crate) struct Admission {
    /// Where API servers ask what of a pod is added or refused (POST /mutate, /validate); without it they do not
    #[arg(long, value_name = "ADDRESS", requires_all = ["admission_certificate", "admission_key", "teams"])]
    pub(crate) admission_listen: Option<SocketAddr>,
    /// What to show to them, PEM; its names are those of the webhook configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) admission_certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) admission_key: Option<PathBuf>,
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
        let Acting { teams, health, preflight } = serve(&["--preflight-mode=apply"]).acts.acting();
        assert_eq!((teams, health, preflight), (None, Some(Mode::DryRun), Some(Mode::Apply)));
        let webhook =
            ["--teams=t", "--teams-mode=apply", "--admission-listen=127.0.0.1:1", "--admission-certificate=d", "--admission-key=e"];
        let serve = serve(&webhook);
        assert_eq!((serve.acts.acting().teams, serve.admission.admission_listen.is_some()), (Some(Mode::Apply), true));
        for wrong in [
            &["--teams-mode=apply"][..],
            &["--teams=t", "--admission-listen=127.0.0.1:1"],
            &["--teams=t", "--teams-mode=on"],
            &["--preflight-taint=x"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        let manifest = Cli::try_parse_from(["barewire-fleet", "manifest", "--teams=t", "--teams-mode=apply"]).unwrap().parts().0;
        assert!(matches!(manifest, Some(Task::Manifest { acts, .. }) if acts.acting().writes()));
        assert!(Cli::try_parse_from(["barewire-fleet"]).is_err(), "the files are missing");
    }
}
