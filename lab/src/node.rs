//! A node from outside: run something in it, look into its files, start a service that can be killed precisely.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::command::{CONFIGURE, Said, run, wait_until};
use super::error::{Context, Error, Result};
use super::state::{NodeState, ProcessIdentity};

/// How long a service may take from SIGTERM to its end.
const DRAIN: Duration = Duration::from_secs(15);

/// How long a service may take from start to having a process.
const APPEAR: Duration = Duration::from_secs(10);

/// A node that is up.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    init: ProcessIdentity,
    env: BTreeMap<String, String>,
    logs: PathBuf,
}

impl Node {
    pub(super) fn new(name: &str, state: &NodeState, lab: &Path) -> Self {
        Self { name: name.to_owned(), init: state.init.clone(), env: state.env.clone(), logs: lab.join(name) }
    }

    /// Its name in the topology.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process 1 as the host sees it.
    #[must_use]
    pub fn init(&self) -> &ProcessIdentity {
        &self.init
    }

    /// The host's path to `path`, an absolute path of the node. Sockets can be connected to through it. Name it without symbolic
    /// links: one with an absolute target, as Debian's `/var/run` has, leads to the host's file of that name.
    #[must_use]
    pub fn host_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc").join(self.init.pid.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Directory of the host with the logs of the node's services.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A command that will run `program` in all of the node's namespaces.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(&["--mount", "--uts", "--ipc", "--net", "--pid"], program.as_ref())
    }

    /// A command that will run the host's `program` in the node's network namespace only.
    #[must_use]
    pub fn network_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(&["--net"], program.as_ref())
    }

    fn enter(&self, namespaces: &[&str], program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.pid.to_string()]).args(namespaces).arg("--").arg(program).envs(&self.env);
        command
    }

    /// Runs a command in the node; its failure is in the answer.
    ///
    /// # Errors
    /// When the node is gone, or the command exceeds `limit`.
    pub fn try_run(&self, argv: &[&str], limit: Duration) -> Result<Said> {
        let mut command = self.prepared(argv)?;
        run(&mut command, limit)
    }

    /// Runs a short command that must succeed and answers its standard output.
    ///
    /// # Errors
    /// As [`Node::try_run`], and when the command fails.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.try_run(argv, CONFIGURE)?.success()
    }

    /// Runs a short command of the host's in the node's network namespace, where it must succeed; answers its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn run_in_network(&self, argv: &[impl AsRef<OsStr>]) -> Result<String> {
        let [program, arguments @ ..] = argv else {
            return Err(Error::Node { node: self.name.clone(), message: "there is no command to run".to_owned() });
        };
        run(self.network_command(program).args(arguments), CONFIGURE)?.success()
    }

    fn prepared(&self, argv: &[&str]) -> Result<Command> {
        self.must_be_up()?;
        let [program, arguments @ ..] = argv else {
            return Err(Error::Node { node: self.name.clone(), message: "there is no command to run".to_owned() });
        };
        let mut command = self.command(program);
        command.args(arguments);
        Ok(command)
    }

    fn must_be_up(&self) -> Result<()> {
        if self.init.is_alive() {
            return Ok(());
        }
        Err(Error::Node { node: self.name.clone(), message: "it is down".to_owned() })
    }

    /// Writes a file of the node, making its directory.
    ///
    /// # Errors
    /// When it cannot be written, or the node is down.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        // Of a node that is gone, the host's path may by now lead to somebody else's files.
        self.must_be_up()?;
        let host = self.host_path(path);
        let what = || format!("write {path} in {}", self.name);
        if let Some(parent) = host.parent() {
            fs::create_dir_all(parent).context(what)?;
        }
        fs::write(&host, contents).context(what)
    }

    /// Copies an executable of the host into the node.
    ///
    /// # Errors
    /// When it is missing or cannot be copied, or the node is down.
    pub fn install(&self, source: &Path, target: &str) -> Result<()> {
        self.must_be_up()?;
        let what = || format!("install {} as {target} in {}", source.display(), self.name);
        let target = self.host_path(target);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context(what)?;
        }
        // By a program: a descriptor of ours that is open for writing would be inherited by whatever another thread starts meanwhile, and
        // the kernel executes no file that somebody may write. A file that runs is replaced, not written.
        let mut install = Command::new("install");
        run(install.args(["--mode=755", "--no-target-directory"]).arg(source).arg(&target), CONFIGURE)?.success().map(drop)
    }

    /// Starts a long-running program; its output goes to `<logs>/<service>.log`, appended.
    ///
    /// # Errors
    /// When it cannot be executed or ends at once.
    pub fn start_service(&self, service: &str, argv: &[&str]) -> Result<Service> {
        self.launch(service, self.prepared(argv)?)
    }

    /// As [`Node::start_service`], but the host's `program`, which sees the host's files: it ends with the node, and the node's network
    /// is its network.
    ///
    /// # Errors
    /// As [`Node::start_service`].
    pub fn start_host_service(&self, service: &str, program: &Path, arguments: &[&str]) -> Result<Service> {
        self.must_be_up()?;
        let mut command = self.enter(&["--net", "--pid"], program.as_os_str());
        command.args(arguments);
        self.launch(service, command)
    }

    fn launch(&self, service: &str, mut command: Command) -> Result<Service> {
        let path = self.logs.join(format!("{service}.log"));
        let what = || format!("open {}", path.display());
        fs::create_dir_all(&self.logs).context(what)?;
        let log = File::options().create(true).append(true).open(&path).context(what)?;
        let mut wrapper = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context(what)?)
            .stderr(log)
            // Ctrl-C is for the runner, not for what it left running.
            .process_group(0)
            .spawn()
            .context(|| format!("start {service} in {}", self.name))?;
        // nsenter forks into the pid namespace: the service is its only child.
        let process = wait_until(&format!("start of {service} in {}", self.name), APPEAR, || {
            if let Ok(Some(status)) = wrapper.try_wait() {
                return Err(format!("it ended with {status}: {}", tail(&path, 5)));
            }
            let child = child_of(wrapper.id()).ok_or("it has no process yet")?;
            ProcessIdentity::of(child).map_err(|error| error.to_string())
        })?;
        Ok(Service { name: service.to_owned(), process, wrapper, log: path })
    }
}

/// A long-running program in a node.
#[derive(Debug)]
pub struct Service {
    name: String,
    process: ProcessIdentity,
    wrapper: Child,
    log: PathBuf,
}

impl Service {
    /// Its process as the host sees it.
    #[must_use]
    pub fn process(&self) -> &ProcessIdentity {
        &self.process
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_alive()
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it takes longer than 15 s.
    pub fn terminate(mut self) -> Result<()> {
        self.process.terminate(DRAIN)?;
        self.reap()
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When the kernel does not let it go.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.reap()
    }

    /// Its log, that of earlier runs included.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn reap(&mut self) -> Result<()> {
        let name = &self.name;
        self.wrapper.wait().map(drop).context(|| format!("wait for {name}"))
    }
}

/// The last lines of a file, empty when there is none.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The first process whose parent is `parent`.
fn child_of(parent: u32) -> Option<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace());
        fields.and_then(|mut fields| fields.nth(1)?.parse().ok()) == Some(parent)
    };
    fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_child)
}
