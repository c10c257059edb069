//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use fleet::acting::Mode;
use fleet::admission::Limits;
use fleet::rights::Acting;

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
}

impl Acts {
    /// One of both switches the leader on; what is not said to apply is a dry run.
    pub(crate) fn acting(&self) -> Acting {
        let teams = self.teams.is_some().then_some(self.teams_mode);
        Acting { teams, health: self.health_mode.or(teams.map(|_| Mode::DryRun)) }
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
        let Acting { teams, health } = serve(&["--teams=t"]).acts.acting();
        assert_eq!((teams, health), (Some(Mode::DryRun), Some(Mode::DryRun)));
        let Acting { teams, health } = serve(&["--health-mode=apply"]).acts.acting();
        assert_eq!((teams, health), (None, Some(Mode::Apply)));
        let webhook =
            ["--teams=t", "--teams-mode=apply", "--admission-listen=127.0.0.1:1", "--admission-certificate=d", "--admission-key=e"];
        let serve = serve(&webhook);
        assert_eq!((serve.acts.acting().teams, serve.admission.admission_listen.is_some()), (Some(Mode::Apply), true));
        for wrong in [&["--teams-mode=apply"][..], &["--teams=t", "--admission-listen=127.0.0.1:1"], &["--teams=t", "--teams-mode=on"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        let manifest = Cli::try_parse_from(["barewire-fleet", "manifest", "--teams=t", "--teams-mode=apply"]).unwrap().parts().0;
        assert!(matches!(manifest, Some(Task::Manifest { acts, .. }) if acts.acting().writes()));
        assert!(Cli::try_parse_from(["barewire-fleet"]).is_err(), "the files are missing");
    }
}
