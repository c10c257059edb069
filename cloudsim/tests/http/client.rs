//! An HTTP client that we did not write, and a cloud for it to talk to.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, SystemTime};

use cloudsim::cloud::{Cloud, InstanceId, LaunchSpec, Settings, SubnetId, SubnetSpec};
use cloudsim::fabric::{Fabric, NoFabric};
use cloudsim::faults::Faults;
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;
use cloudsim::time::Millis;

/// A status, the headers that were asked for, a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The text of the first XML element of that name.
    pub(crate) fn element(&self, name: &str) -> Option<String> {
        let document = roxmltree::Document::parse(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body));
        let found = document.descendants().find(|node| node.tag_name().name() == name)?;
        Some(found.text().unwrap_or_default().to_owned())
    }
}

/// One request; an error where there is no reply.
pub(crate) fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply, ureq::Error> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(body.to_owned())?)?;
    let body = response.body_mut().read_to_string()?;
    Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), body })
}

/// A call of the EC2 API, with a signature in the right form.
pub(crate) fn query(url: &str, region: &str, parameters: &[(&str, &str)]) -> Result<Reply, ureq::Error> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let date = Millis(since_epoch.as_millis() as u64).iso8601_seconds().replace(['-', ':'], "");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{}/{region}/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
        &date[..8],
        "a".repeat(64)
    );
    let all = [("Version", "2016-11-15")].iter().chain(parameters);
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish();
    let headers = [("authorization", authorization.as_str()), ("x-amz-date", &date), ("content-type", "application/x-www-form-urlencoded")];
    send("POST", url, &headers, &body)
}

/// A cloud with one subnet and one instance, on sockets.
pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) subnet: SubnetId,
    pub(crate) instance: InstanceId,
    pub(crate) api: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(|_| {}, Box::new(NoFabric))
    }

    pub(crate) fn with(launch: impl FnOnce(&mut LaunchSpec), fabric: Box<dyn Fabric>) -> Self {
        let mut cloud = Cloud::new(Settings { seed: 3, ..Settings::default() });
        let spec = SubnetSpec {
            availability_zone: "us-east-1a".to_owned(),
            cidr: "10.0.0.0/20".parse().unwrap(),
            ipv6_cidr: Some("fd00:10::/64".parse().unwrap()),
            tags: [("tier".to_owned(), "pods".to_owned())].into(),
        };
        let subnet = cloud.create_subnet(spec).unwrap();
        let server = Server::start(cloud, fabric).unwrap();
        let mut spec = LaunchSpec::new("m5.large", subnet);
        launch(&mut spec);
        let instance = server.with(|cloud, now| cloud.launch(now, &spec).unwrap());
        let api = format!("http://{}/", server.listen(loopback(), Role::Api).unwrap());
        Self { server, subnet, instance, api }
    }

    pub(crate) fn query(&self, parameters: &[(&str, &str)]) -> Reply {
        query(&self.api, "us-east-1", parameters).unwrap()
    }

    /// A metadata service of the instance; its URL without a path.
    pub(crate) fn metadata(&self, service: Service) -> String {
        self.listen(Role::Metadata(service, Asker::Instance(self.instance)))
    }

    pub(crate) fn listen(&self, role: Role) -> String {
        format!("http://{}", self.address(role))
    }

    pub(crate) fn address(&self, role: Role) -> SocketAddr {
        self.server.listen(loopback(), role).unwrap()
    }

    pub(crate) fn set_faults(&self, set: impl FnOnce(&mut Faults)) {
        self.server.with(|cloud, _| {
            let mut faults = cloud.faults().clone();
            set(&mut faults);
            cloud.set_faults(faults);
        });
    }

    pub(crate) fn interface(&self) -> cloudsim::cloud::Interface {
        self.server.with(|cloud, _| cloud.interfaces_of(self.instance)[0].clone())
    }
}

pub(crate) fn loopback() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).unwrap()
}
