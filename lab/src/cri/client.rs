//! The calls, one function each.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerStatus, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec,
    ImageStatusRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxStatusRequest, PodSandboxStatusResponse,
    RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeCondition, StartContainerRequest, StatusRequest,
    StopContainerRequest, StopPodSandboxRequest, VersionRequest, VersionResponse,
};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tower_service::Service;

use super::Error;

/// Limit of a call that only asks.
const ASK: Duration = Duration::from_secs(10);

/// Limit of a call that makes or removes something. A kubelet allows four minutes; a lab that needs one is broken.
const ACT: Duration = Duration::from_secs(60);

/// A connection to one runtime.
#[derive(Debug)]
pub struct Cri {
    event_loop: Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects to the runtime at `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let event_loop = Builder::new_current_thread().enable_all().build().map_err(Error::EventLoop)?;
        let dial = Dial { socket: socket.to_owned() };
        // The name in the URI becomes the `:authority` header, which a Go server refuses when it is a path.
        let endpoint = Endpoint::from_static("http://localhost");
        let refused = |reason: String| Error::Connect { socket: socket.to_owned(), reason };
        let channel = event_loop
            .block_on(async { timeout(ASK, endpoint.connect_with_connector(dial)).await })
            .map_err(|_| refused(format!("no answer within {} s", ASK.as_secs())))?
            .map_err(|error| refused(chain(&error)))?;
        Ok(Self { event_loop, channel })
    }

    /// `Version`.
    ///
    /// # Errors
    /// Those of every call: the runtime refuses, or the deadline passes.
    pub fn version(&self) -> Result<VersionResponse, Error> {
        let request = VersionRequest { version: "v1".to_owned() };
        self.call("Version", ASK, request, async |mut runtime, request| runtime.version(request).await)
    }

    /// `Status`: the runtime's conditions.
    ///
    /// # Errors
    /// Those of every call.
    pub fn conditions(&self) -> Result<Vec<RuntimeCondition>, Error> {
        let request = StatusRequest { verbose: false };
        let response = self.call("Status", ASK, request, async |mut runtime, request| runtime.status(request).await)?;
        Ok(response.status.map(|status| status.conditions).unwrap_or_default())
    }

    /// `ImageStatus`: whether the runtime has an image.
    ///
    /// # Errors
    /// Those of every call.
    pub fn has_image(&self, image: &str) -> Result<bool, Error> {
        let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
        let request = ImageStatusRequest { image, verbose: false };
        let mut images = ImageServiceClient::new(self.channel.clone());
        let response = self.wait("ImageStatus", ASK, request, async |request| images.image_status(request).await)?;
        Ok(response.image.is_some())
    }

    /// `RunPodSandbox`: answers the sandbox's identifier.
    ///
    /// # Errors
    /// Those of every call; a CNI plugin's failure is in the runtime's words.
    pub fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String, Error> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let response = self.call("RunPodSandbox", ACT, request, async |mut runtime, request| runtime.run_pod_sandbox(request).await)?;
        Ok(response.pod_sandbox_id)
    }

    /// `PodSandboxStatus`, with the runtime's own information.
    ///
    /// # Errors
    /// Those of every call.
    pub fn pod_sandbox_status(&self, sandbox: &str) -> Result<PodSandboxStatusResponse, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        self.call("PodSandboxStatus", ASK, request, async |mut runtime, request| runtime.pod_sandbox_status(request).await)
    }

    /// `ListPodSandbox`: all of them.
    ///
    /// # Errors
    /// Those of every call.
    pub fn list_pod_sandbox(&self) -> Result<Vec<PodSandbox>, Error> {
        let request = ListPodSandboxRequest { filter: None };
        let response = self.call("ListPodSandbox", ASK, request, async |mut runtime, request| runtime.list_pod_sandbox(request).await)?;
        Ok(response.items)
    }

    /// `StopPodSandbox`: stops its containers and has its network removed.
    ///
    /// # Errors
    /// Those of every call.
    pub fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.call("StopPodSandbox", ACT, request, async |mut runtime, request| runtime.stop_pod_sandbox(request).await).map(drop)
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.call("RemovePodSandbox", ACT, request, async |mut runtime, request| runtime.remove_pod_sandbox(request).await).map(drop)
    }

    /// `CreateContainer`: answers the container's identifier.
    ///
    /// # Errors
    /// Those of every call.
    pub fn create_container(&self, sandbox: &str, config: ContainerConfig, of: PodSandboxConfig) -> Result<String, Error> {
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config: Some(config), sandbox_config: Some(of) };
        let response = self.call("CreateContainer", ACT, request, async |mut runtime, request| runtime.create_container(request).await)?;
        Ok(response.container_id)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn start_container(&self, container: &str) -> Result<(), Error> {
        let request = StartContainerRequest { container_id: container.to_owned() };
        self.call("StartContainer", ACT, request, async |mut runtime, request| runtime.start_container(request).await).map(drop)
    }

    /// `StopContainer` with no grace.
    ///
    /// # Errors
    /// Those of every call.
    pub fn stop_container(&self, container: &str) -> Result<(), Error> {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.call("StopContainer", ACT, request, async |mut runtime, request| runtime.stop_container(request).await).map(drop)
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn remove_container(&self, container: &str) -> Result<(), Error> {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        self.call("RemoveContainer", ACT, request, async |mut runtime, request| runtime.remove_container(request).await).map(drop)
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn container_status(&self, container: &str) -> Result<ContainerStatus, Error> {
        let method = "ContainerStatus";
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let response = self.call(method, ASK, request, async |mut runtime, request| runtime.container_status(request).await)?;
        response.status.ok_or(Error::Incomplete { method, missing: "status" })
    }

    /// `ExecSync`: runs a program in a container; its failure is in the answer. `limit` counts in whole seconds.
    ///
    /// # Errors
    /// Those of every call.
    pub fn exec_sync(&self, container: &str, cmd: &[&str], limit: Duration) -> Result<ExecSyncResponse, Error> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        self.call("ExecSync", limit + ASK, request, async |mut runtime, request| runtime.exec_sync(request).await)
    }

    fn call<Q, A>(
        &self,
        method: &'static str,
        limit: Duration,
        request: Q,
        send: impl AsyncFnOnce(RuntimeServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Error> {
        let runtime = RuntimeServiceClient::new(self.channel.clone());
        self.wait(method, limit, request, async |request| send(runtime, request).await)
    }

    /// Sends and waits. The runtime is told the limit too; ours holds when it hangs.
    fn wait<Q, A>(
        &self,
        method: &'static str,
        limit: Duration,
        request: Q,
        send: impl AsyncFnOnce(Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Error> {
        let refused = |status: Status| match status.code() {
            // The second is tonic's own clock, which knows the limit from the request; nobody else cancels.
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Error::Deadline { method, limit },
            code => Error::Refused { method, code, message: status.message().to_owned() },
        };
        let mut request = Request::new(request);
        request.set_timeout(limit);
        self.event_loop
            .block_on(async { timeout(limit, send(request)).await })
            .map_err(|_| Error::Deadline { method, limit })?
            .map(Response::into_inner)
            .map_err(refused)
    }
}

/// An error with what caused it: tonic's own text is "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Connects to a unix socket whatever the URI says.
struct Dial {
    socket: PathBuf,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_named() {
        let message = Cri::connect(Path::new("/nowhere/containerd.sock")).unwrap_err().to_string();
        assert!(message.contains("/nowhere/containerd.sock") && message.contains("No such file"), "{message}");
    }

    #[test]
    fn a_runtime_that_never_answers_meets_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("mute.sock");
        let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cri = Cri::connect(&socket).unwrap();
        let request = VersionRequest { version: "v1".to_owned() };
        let limit = Duration::from_millis(200);
        let answer = cri.call("Version", limit, request, async |mut runtime, request| runtime.version(request).await);
        assert!(matches!(answer, Err(Error::Deadline { method: "Version", .. })), "{answer:?}");
    }
}
