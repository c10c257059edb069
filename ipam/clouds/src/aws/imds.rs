//! The instance metadata service, version 2 ("Use the Instance Metadata Service" and "Instance metadata categories" in the Amazon EC2
//! user guide). What an instance does not have has no key: 404 is "none", and everything else that is not a value is an error.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::super::http::Client;
use super::super::maintenance::{self, Maintenance};
use super::super::metadata::{MetadataError, block, fetch, get, mac, refused, text};

const TOKEN: &str = "/latest/api/token";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The longest that the service gives; a token is renewed when half of it is over.
const TTL_SECONDS: u64 = 21_600;
const MACS: &str = "network/interfaces/macs/";
const TOKEN_REMEDY: &str = "the instance metadata service is off, or its answer cannot reach this process: set HttpEndpoint to enabled, \
     and HttpPutResponseHopLimit to 2 where barewired runs in a container (aws ec2 modify-instance-metadata-options), and let the \
     host reach it through firewall and routes";
const REMEDY: &str = "see the instance's metadata options";

/// A client of the service, with its token.
pub(super) struct Imds {
    client: Client,
    base: Uri,
    token: Mutex<Option<(String, Instant)>>,
}

/// Without the token: whoever has it is the instance.
impl std::fmt::Debug for Imds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imds").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Which instance this is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) instance_id: String,
    pub(super) instance_type: String,
    pub(super) region: String,
    pub(super) availability_zone: String,
    /// Under which the region's services have their names.
    pub(super) domain: String,
}

/// An interface as metadata tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetadataInterface {
    pub(super) id: String,
    pub(super) mac: [u8; 6],
    /// By this, in the order of attachment.
    pub(super) device: u32,
    pub(super) subnet: String,
    pub(super) subnet_cidr: Option<IpNetwork>,
    pub(super) has_ipv6_subnet: bool,
    /// Its first is its own, the others are for pods.
    pub(super) addresses: Vec<IpNetwork>,
    /// All of them its own.
    pub(super) ipv6_addresses: usize,
    pub(super) prefixes: Vec<IpNetwork>,
    pub(super) vpc_cidrs: Vec<IpNetwork>,
}

/// A scheduled event. `State` is `active`, `completed` or `canceled`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    code: String,
    state: String,
    not_before: String,
}

/// What becomes of a spot instance, and when.
#[derive(Deserialize)]
struct SpotAction {
    action: String,
    time: String,
}

/// The text of a key, and where it was read.
struct Value {
    url: String,
    text: String,
}

impl Value {
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    fn blocks(&self) -> Result<Vec<IpNetwork>, MetadataError> {
        self.lines().map(|line| block(&self.url, line)).collect()
    }

    fn number(&self) -> Result<u32, MetadataError> {
        self.text.trim().parse().map_err(|_| MetadataError::malformed(&self.url, &self.text, "a number"))
    }

    fn json<T: DeserializeOwned>(&self, wanted: &'static str) -> Result<T, MetadataError> {
        serde_json::from_str(&self.text).map_err(|_| MetadataError::malformed(&self.url, &self.text, wanted))
    }

    /// A word of letters, digits, dashes and dots, that begins so.
    fn name(&self, begins: &str) -> Result<String, MetadataError> {
        let name = self.text.trim();
        let is_name = name.len() > begins.len()
            && name.starts_with(begins)
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        if is_name { Ok(name.to_owned()) } else { Err(MetadataError::malformed(&self.url, &self.text, "a name of EC2's")) }
    }
}

impl Imds {
    pub(super) fn new(client: Client, base: Uri) -> Self {
        Self { client, base, token: Mutex::default() }
    }

    /// Which instance this is.
    pub(super) async fn identity(&self) -> Result<Identity, MetadataError> {
        Ok(Identity {
            instance_id: self.required("instance-id").await?.name("i-")?,
            instance_type: self.required("instance-type").await?.name("")?,
            region: self.required("placement/region").await?.name("")?,
            availability_zone: self.required("placement/availability-zone").await?.name("")?,
            domain: match self.optional("services/domain").await? {
                Some(value) => value.name("")?,
                None => "amazonaws.com".to_owned(),
            },
        })
    }

    /// Scheduled events that are not over, and that a spot instance is taken back.
    pub(super) async fn maintenance(&self) -> Result<Vec<Maintenance>, MetadataError> {
        let mut all = Vec::new();
        if let Some(told) = self.optional("events/maintenance/scheduled").await? {
            let events: Vec<Event> = told.json("a list of scheduled events")?;
            for Event { code, not_before, .. } in events.into_iter().filter(|event| event.state == "active") {
                all.push(Maintenance { what: code, begins: Some(maintenance::time(&told.url, &not_before)?) });
            }
        }
        if let Some(told) = self.optional("spot/instance-action").await? {
            let SpotAction { action, time } = told.json("a spot instance's action")?;
            all.push(Maintenance { what: format!("spot {action}"), begins: Some(maintenance::time(&told.url, &time)?) });
        }
        Ok(all)
    }

    /// The interfaces of the first network card, in the order of their attachment.
    pub(super) async fn interfaces(&self) -> Result<Vec<MetadataInterface>, MetadataError> {
        let mut interfaces = Vec::new();
        let macs = self.required(MACS).await?;
        for name in macs.lines().map(|line| line.trim_end_matches('/')) {
            let mac = mac(&macs.url, name)?;
            interfaces.extend(self.interface(name, mac).await?);
        }
        interfaces.sort_by_key(|interface| interface.device);
        Ok(interfaces)
    }

    /// None where it is another card's, or going or coming: some of what every interface has is not there then.
    async fn interface(&self, name: &str, mac: [u8; 6]) -> Result<Option<MetadataInterface>, MetadataError> {
        let value = async |key: &str| self.optional(&format!("{MACS}{name}/{key}")).await;
        let blocks = async |key: &str| value(key).await?.map_or(Ok(Vec::new()), |value| value.blocks());
        // First: machines made for training have dozens of the others.
        if value("network-card").await?.map_or(Ok(0), |value| value.number())? != 0 {
            return Ok(None);
        }
        let (Some(id), Some(device), Some(subnet)) =
            (value("interface-id").await?, value("device-number").await?, value("subnet-id").await?)
        else {
            return Ok(None);
        };
        let mut prefixes = blocks("ipv4-prefix").await?;
        prefixes.extend(blocks("ipv6-prefix").await?);
        let mut vpc_cidrs = blocks("vpc-ipv4-cidr-blocks").await?;
        vpc_cidrs.extend(blocks("vpc-ipv6-cidr-blocks").await?);
        Ok(Some(MetadataInterface {
            id: id.name("eni-")?,
            mac,
            device: device.number()?,
            subnet: subnet.name("subnet-")?,
            subnet_cidr: blocks("subnet-ipv4-cidr-block").await?.first().copied(),
            has_ipv6_subnet: !blocks("subnet-ipv6-cidr-blocks").await?.is_empty(),
            addresses: blocks("local-ipv4s").await?,
            ipv6_addresses: blocks("ipv6s").await?.len(),
            prefixes,
            vpc_cidrs,
        }))
    }

    async fn required(&self, key: &str) -> Result<Value, MetadataError> {
        match self.read(key).await? {
            (_, Some(value)) => Ok(value),
            (url, None) => Err(MetadataError::malformed(&url, "404 Not Found", "there on any instance")),
        }
    }

    async fn optional(&self, key: &str) -> Result<Option<Value>, MetadataError> {
        Ok(self.read(key).await?.1)
    }

    async fn read(&self, key: &str) -> Result<(String, Option<Value>), MetadataError> {
        let path = format!("/latest/meta-data/{key}");
        let mut was_refused = false;
        loop {
            let request = get(&self.base, &path, (TOKEN_HEADER, &self.token().await?))?;
            let url = request.uri().to_string();
            let reply = fetch(&self.client, &request, REMEDY).await?;
            match reply.status {
                StatusCode::OK => {
                    let text = text(&url, &reply)?;
                    return Ok((url.clone(), Some(Value { url, text })));
                }
                StatusCode::NOT_FOUND => return Ok((url, None)),
                // The instance may have been moved: its tokens do not move with it.
                StatusCode::UNAUTHORIZED if !was_refused => {
                    was_refused = true;
                    *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                _ => return Err(refused(&url, &reply, REMEDY)),
            }
        }
    }

    async fn token(&self) -> Result<String, MetadataError> {
        let fresh = |at: &Instant| at.elapsed() < Duration::from_secs(TTL_SECONDS / 2);
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((token, _)) = known.filter(|(_, at)| fresh(at)) {
            return Ok(token);
        }
        let asked = Instant::now();
        let mut request: Request<Bytes> = get(&self.base, TOKEN, (TTL_HEADER, &TTL_SECONDS.to_string()))?;
        *request.method_mut() = Method::PUT;
        let url = request.uri().to_string();
        let reply = fetch(&self.client, &request, TOKEN_REMEDY).await?;
        if reply.status != StatusCode::OK {
            return Err(refused(&url, &reply, TOKEN_REMEDY));
        }
        let token = text(&url, &reply)?.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) || token.starts_with('<') {
            return Err(MetadataError::malformed(&url, &token, "a session token"));
        }
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.clone(), asked));
        Ok(token)
    }
}

#[cfg(test)]
mod tests;
