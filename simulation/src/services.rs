//! What a node reaches over HTTP: its own metadata service, and the EC2 API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use cloudsim::cloud::{Cloud, InstanceId};
use cloudsim::exchange::Exchange;
use cloudsim::metadata::{self, Service};
use cloudsim::{ec2, time::Millis};
use http::Request;
use ipam_clouds::aws::{ApiSettings, Aws, AwsSettings};
use ipam_clouds::{Answer, InProcess, Source};

use crate::clock::Clock;
use crate::ledger::Ledger;

/// Where AWS's metadata service is.
const METADATA: &str = "169.254.169.254";

/// The cloud, and what is noted beside it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cloud: Cloud,
    pub(crate) ledger: Ledger,
}

/// One cloud for all nodes. They are all on one thread; the lock is for the sources, which could be elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    pub(crate) clock: Clock,
}

impl Shared {
    pub(crate) fn new(cloud: Cloud, clock: Clock) -> Self {
        Self { state: Arc::new(Mutex::new(State { cloud, ledger: Ledger::default() })), clock }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something done to the cloud, and looks at what came of it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Cloud, Millis) -> T) -> T {
        let State { cloud, ledger } = &mut *self.lock();
        let done = act(cloud, self.clock.cloud());
        ledger.note(cloud.take_events());
        done
    }
}

/// The services as one node has them.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) shared: Shared,
    pub(crate) instance: InstanceId,
}

impl Services {
    /// The clients of a daemon on that instance.
    pub(crate) fn source(self, api: bool) -> Source {
        // Its region's own endpoint.
        let keys = SharedCredentialsProvider::new(Credentials::from_keys("AKIDSIMULATION", "secret", None));
        let api = api.then(|| ApiSettings { credentials: Some(keys), ..ApiSettings::default() });
        Source::Aws(Box::new(Aws::in_process(AwsSettings { api, ..AwsSettings::default() }, Arc::new(self))))
    }
}

impl InProcess for Services {
    fn answer(&self, request: Request<Bytes>) -> Answer {
        let request = request.map(|body| body.to_vec());
        let exchange = self.shared.with(|cloud, now| {
            if request.uri().host() == Some(METADATA) {
                metadata::answer(cloud, now, Service::Aws, self.instance, &request, None)
            } else {
                ec2::answer(cloud, now, &request)
            }
        });
        let (after, reply) = match exchange {
            Exchange::Reply { after, reply } => (after, Some(reply.map(Bytes::from))),
            Exchange::NoReply { after } => (after, None),
            // Google Cloud's alone.
            Exchange::Wait(_) => (Millis::ZERO, None),
        };
        Answer { after: Duration::from_millis(after.0), reply }
    }

    fn wall_clock(&self) -> SystemTime {
        self.shared.clock.wall()
    }
}
