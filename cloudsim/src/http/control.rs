//! The control API: what the cloud's operator does, in JSON, for labs and tests in other processes.
//!
//! | request | does |
//! |---|---|
//! | `GET /state` | the time, the settings, subnets, instances and interfaces as they truly are |
//! | `POST /subnets` | makes a [`SubnetSpec`]; replies `{"id"}` |
//! | `POST /subnets/ID/fragment` | `{"prefixes_left"}`, see [`Cloud::fragment_subnet`](crate::cloud::Cloud::fragment_subnet) |
//! | `POST /subnets/ID/fill` | `{"addresses_left"}`, see [`Cloud::fill_subnet`](crate::cloud::Cloud::fill_subnet) |
//! | `POST /instances` | launches a [`LaunchSpec`]; replies `{"id"}` |
//! | `DELETE /instances/ID` | terminates |
//! | `PUT /instances/ID/maintenance` | announces a [`Maintenance`], or withdraws it: `null` |
//! | `POST /call` | an EC2 Query form, without signature and limits; replies as EC2 does |
//! | `GET /faults`, `PUT /faults` | [`Faults`]; times are milliseconds since the epoch, as in `/state` |
//! | `GET /calls`, `DELETE /calls` | what was called, how often, how often throttled |
//! | `GET /events?after=N&wait_seconds=S` | what packets felt since event N; waits where there is nothing yet |
//! | `POST /listeners` | `{"listen", "role", "instance"}`; role is `api`, `aws`, `azure`, `wireserver` or `gcp`; replies `{"address"}` |
//!
//! Errors are `{"code", "message"}`. It has no authentication and belongs on loopback.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asker, Role, Shared};
use crate::cloud::{ApiError, InstanceId, LaunchSpec, Maintenance, SubnetId, SubnetSpec};
use crate::ec2;
use crate::exchange::HttpReply;
use crate::fabric::Event;
use crate::faults::Faults;
use crate::metadata::Service;

/// The longest that `GET /events` waits.
const LONGEST_WAIT: u64 = 60;

pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/state", get(state))
        .route("/subnets", post(create_subnet))
        .route("/subnets/{id}/fragment", post(fragment))
        .route("/subnets/{id}/fill", post(fill))
        .route("/instances", post(launch))
        .route("/instances/{id}", delete(terminate))
        .route("/instances/{id}/maintenance", put(announce))
        .route("/call", post(call))
        .route("/faults", get(faults).put(set_faults))
        .route("/calls", get(calls).delete(clear_calls))
        .route("/events", get(events))
        .route("/listeners", post(listen))
        .with_state(shared)
}

/// What went wrong, as a reply.
#[derive(Debug, Serialize)]
struct Failure {
    #[serde(skip)]
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
        Self { status, code: error.code, message: error.message }
    }
}

async fn state(State(shared): State<Shared>) -> Json<Value> {
    shared.with(|cloud, now| {
        cloud.advance(now);
        let subnets = cloud.subnets().map(|subnet| {
            json!({
                "id": subnet.id, "availability_zone": subnet.availability_zone, "cidr": subnet.cidr, "ipv6_cidr": subnet.ipv6_cidr,
                "available": subnet.available, "tags": subnet.tags,
            })
        });
        Json(json!({
            "now": now,
            "settings": cloud.settings(),
            "vpc": cloud.vpc(),
            "subnets": subnets.collect::<Vec<_>>(),
            "instances": cloud.instances().collect::<Vec<_>>(),
            "interfaces": cloud.interfaces().collect::<Vec<_>>(),
        }))
    })
}

async fn create_subnet(State(shared): State<Shared>, Json(spec): Json<SubnetSpec>) -> Result<Json<Value>, Failure> {
    let id = shared.with(|cloud, _| cloud.create_subnet(spec))?;
    Ok(Json(json!({ "id": id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrefixesLeft {
    prefixes_left: usize,
}

async fn fragment(State(shared): State<Shared>, Path(id): Path<SubnetId>, Json(left): Json<PrefixesLeft>) -> Result<(), Failure> {
    Ok(shared.with(|cloud, _| cloud.fragment_subnet(id, left.prefixes_left))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressesLeft {
    addresses_left: u32,
}

async fn fill(State(shared): State<Shared>, Path(id): Path<SubnetId>, Json(left): Json<AddressesLeft>) -> Result<(), Failure> {
    Ok(shared.with(|cloud, _| cloud.fill_subnet(id, left.addresses_left))?)
}

async fn launch(State(shared): State<Shared>, Json(spec): Json<LaunchSpec>) -> Result<Json<Value>, Failure> {
    let id = shared.with(|cloud, now| cloud.launch(now, &spec))?;
    Ok(Json(json!({ "id": id })))
}

async fn terminate(State(shared): State<Shared>, Path(id): Path<InstanceId>) -> Result<(), Failure> {
    Ok(shared.with(|cloud, now| cloud.terminate(now, id))?)
}

async fn announce(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Json(maintenance): Json<Option<Maintenance>>,
) -> Result<(), Failure> {
    Ok(shared.with(|cloud, _| cloud.announce(id, maintenance))?)
}

async fn call(State(shared): State<Shared>, form: Bytes) -> HttpReply {
    shared.with(|cloud, now| ec2::apply(cloud, now, &form))
}

async fn faults(State(shared): State<Shared>) -> Json<Faults> {
    Json(shared.with(|cloud, _| cloud.faults().clone()))
}

async fn set_faults(State(shared): State<Shared>, Json(faults): Json<Faults>) {
    shared.with(|cloud, _| cloud.set_faults(faults));
}

async fn calls(State(shared): State<Shared>) -> Json<Value> {
    Json(shared.with(|cloud, _| json!({ "total": cloud.calls().total(), "calls": cloud.calls() })))
}

async fn clear_calls(State(shared): State<Shared>) {
    shared.with(|cloud, _| cloud.clear_calls());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_seconds: u64,
}

async fn events(State(shared): State<Shared>, Query(query): Query<After>) -> Json<Vec<Event>> {
    let mut stirred = shared.stirred.subscribe();
    let found = async {
        loop {
            let found = shared.events_after(query.after);
            if !found.is_empty() || stirred.changed().await.is_err() {
                return found;
            }
        }
    };
    let longest = Duration::from_secs(query.wait_seconds.min(LONGEST_WAIT));
    Json(tokio::time::timeout(longest, found).await.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenSpec {
    listen: SocketAddr,
    role: ListenRole,
    /// Whose metadata; without it, that of whoever asks.
    instance: Option<InstanceId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ListenRole {
    Api,
    #[serde(untagged)]
    Metadata(Service),
}

async fn listen(State(shared): State<Shared>, Json(spec): Json<ListenSpec>) -> Result<Json<Value>, Failure> {
    let role = match spec.role {
        ListenRole::Api => Role::Api,
        ListenRole::Metadata(service) => Role::Metadata(service, spec.instance.map_or(Asker::Peer, Asker::Instance)),
    };
    let address = TcpListener::bind(spec.listen).and_then(|listener| shared.listen(listener, role)).map_err(|error| Failure {
        status: StatusCode::CONFLICT,
        code: "CannotListen",
        message: format!("cannot listen on {}: {error}", spec.listen),
    })?;
    Ok(Json(json!({ "address": address })))
}
