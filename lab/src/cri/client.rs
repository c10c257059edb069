//! The calls, one function each.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::Error;
use super::messages::{
    ContainerConfig, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest, ExecSyncRequest,
    ExecSyncResponse, Identifier, ImageSpec, ImageStatusRequest, ImageStatusResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    Nothing, PodSandbox, PodSandboxConfig, PodSandboxStatusRequest, PodSandboxStatusResponse, RunPodSandboxRequest, RuntimeCondition,
    StatusRequest, StatusResponse, StopContainerRequest, VersionRequest, VersionResponse,
};

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
        let version = "v1".to_owned();
        self.call("Version", VersionRequest { version }, ASK)
    }

    /// `Status`: the runtime's conditions.
    ///
    /// # Errors
    /// Those of every call.
    pub fn conditions(&self) -> Result<Vec<RuntimeCondition>, Error> {
        let response: StatusResponse = self.call("Status", StatusRequest { verbose: false }, ASK)?;
        Ok(response.status.map(|status| status.conditions).unwrap_or_default())
    }

    /// `ImageStatus`: whether the runtime has an image.
    ///
    /// # Errors
    /// Those of every call.
    pub fn has_image(&self, image: &str) -> Result<bool, Error> {
        let image = Some(ImageSpec { image: image.to_owned() });
        let request = ImageStatusRequest { image };
        let response: ImageStatusResponse = self.call_service("runtime.v1.ImageService", "ImageStatus", request, ASK)?;
        Ok(response.image.is_some())
    }

    /// `RunPodSandbox`: answers the sandbox's identifier.
    ///
    /// # Errors
    /// Those of every call; a CNI plugin's failure is in the runtime's words.
    pub fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String, Error> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let response: Identifier = self.call("RunPodSandbox", request, ACT)?;
        Ok(response.id)
    }

    /// `PodSandboxStatus`, with the runtime's own information.
    ///
    /// # Errors
    /// Those of every call.
    pub fn pod_sandbox_status(&self, sandbox: &str) -> Result<PodSandboxStatusResponse, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        self.call("PodSandboxStatus", request, ASK)
    }

    /// `ListPodSandbox`: all of them.
    ///
    /// # Errors
    /// Those of every call.
    pub fn list_pod_sandbox(&self) -> Result<Vec<PodSandbox>, Error> {
        let response: ListPodSandboxResponse = self.call("ListPodSandbox", ListPodSandboxRequest {}, ASK)?;
        Ok(response.items)
    }

    /// `StopPodSandbox`: stops its containers and has its network removed.
    ///
    /// # Errors
    /// Those of every call.
    pub fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.act_on("StopPodSandbox", sandbox)
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.act_on("RemovePodSandbox", sandbox)
    }

    /// `CreateContainer`: answers the container's identifier.
    ///
    /// # Errors
    /// Those of every call.
    pub fn create_container(&self, sandbox: &str, config: ContainerConfig, of: PodSandboxConfig) -> Result<String, Error> {
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config: Some(config), sandbox_config: Some(of) };
        let response: Identifier = self.call("CreateContainer", request, ACT)?;
        Ok(response.id)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn start_container(&self, container: &str) -> Result<(), Error> {
        self.act_on("StartContainer", container)
    }

    /// `StopContainer` with no grace.
    ///
    /// # Errors
    /// Those of every call.
    pub fn stop_container(&self, container: &str) -> Result<(), Error> {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.call::<_, Nothing>("StopContainer", request, ACT).map(drop)
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn remove_container(&self, container: &str) -> Result<(), Error> {
        self.act_on("RemoveContainer", container)
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// Those of every call.
    pub fn container_status(&self, container: &str) -> Result<ContainerStatus, Error> {
        let method = "ContainerStatus";
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let response: ContainerStatusResponse = self.call(method, request, ASK)?;
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
        self.call("ExecSync", request, limit + ASK)
    }

    fn act_on(&self, method: &'static str, id: &str) -> Result<(), Error> {
        self.call::<_, Nothing>(method, Identifier { id: id.to_owned() }, ACT).map(drop)
    }

    fn call<Q, A>(&self, method: &'static str, request: Q, limit: Duration) -> Result<A, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.call_service("runtime.v1.RuntimeService", method, request, limit)
    }

    fn call_service<Q, A>(&self, service: &str, method: &'static str, request: Q, limit: Duration) -> Result<A, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let refused = |status: tonic::Status| match status.code() {
            // The second is tonic's own clock, which knows the limit from the request; nobody else cancels.
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Error::Deadline { method, limit },
            code => Error::Refused { method, code, message: status.message().to_owned() },
        };
        let path =
            PathAndQuery::try_from(format!("/{service}/{method}")).map_err(|error| refused(tonic::Status::internal(error.to_string())))?;
        let mut request = Request::new(request);
        request.set_timeout(limit);
        let mut client = Grpc::new(self.channel.clone());
        let answer = async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(chain(&error)))?;
            client.unary(request, path, ProstCodec::<Q, A>::default()).await
        };
        // The runtime is told the limit too; ours holds when it hangs.
        self.event_loop
            .block_on(async { timeout(limit, answer).await })
            .map_err(|_| Error::Deadline { method, limit })?
            .map(tonic::Response::into_inner)
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
        let answer = cri.call::<_, VersionResponse>("Version", request, Duration::from_millis(200));
        assert!(matches!(answer, Err(Error::Deadline { method: "Version", .. })), "{answer:?}");
    }
}
