//! The promises of the model, one subject a file.

mod addresses;
mod attachments;
mod budget;
mod faults;
mod invariants;
mod reads;

use super::*;

/// A region with one zone, and what the tests ask of it.
struct World {
    cloud: Cloud,
    subnet: SubnetId,
    now: Millis,
}

impl World {
    fn new() -> Self {
        Self::with_cidr("10.0.0.0/20")
    }

    fn with_cidr(cidr: &str) -> Self {
        let mut cloud = Cloud::new(Settings { seed: 42, ..Settings::default() });
        let spec = SubnetSpec {
            availability_zone: "us-east-1a".to_owned(),
            cidr: cidr.parse().unwrap(),
            ipv6_cidr: Some("fd00:10::/64".parse().unwrap()),
            tags: BTreeMap::new(),
        };
        let subnet = cloud.create_subnet(spec).unwrap();
        Self { cloud, subnet, now: Millis::seconds(1_000_000) }
    }

    fn launch(&mut self, instance_type: &str) -> (InstanceId, InterfaceId) {
        let spec = LaunchSpec::new(instance_type, self.subnet);
        let instance = self.cloud.launch(self.now, &spec).unwrap();
        (instance, self.cloud.interfaces_of(instance)[0].id)
    }

    fn call(&mut self, request: &Request) -> Result<Response, &'static str> {
        let heard = self.cloud.call(self.now, request).outcome.heard();
        heard.unwrap_or_else(|| Err(ApiError::internal())).map_err(|error| error.code)
    }

    fn create(&mut self) -> InterfaceId {
        let request = Request::CreateNetworkInterface { spec: InterfaceSpec::new(self.subnet), client_token: None };
        match self.call(&request) {
            Ok(Response::CreateNetworkInterface { interface, .. }) => interface.id,
            other => panic!("{other:?}"),
        }
    }

    fn attach(&mut self, interface: InterfaceId, instance: InstanceId, device_index: u32) -> Result<AttachmentId, &'static str> {
        match self.call(&Request::AttachNetworkInterface { interface, instance, device_index, network_card: 0 })? {
            Response::AttachNetworkInterface { attachment, .. } => Ok(attachment),
            other => panic!("{other:?}"),
        }
    }

    fn assign(&mut self, interface: InterfaceId, wanted: Ipv4Wanted) -> Result<Response, &'static str> {
        self.call(&Request::AssignPrivateIpAddresses { interface, wanted })
    }

    fn assign_prefix(&mut self, interface: InterfaceId) -> Result<Ipv4Network, &'static str> {
        match self.assign(interface, Ipv4Wanted::Ipv4PrefixCount(1))? {
            Response::AssignPrivateIpAddresses { prefixes, .. } => Ok(prefixes[0]),
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self, interface: InterfaceId) -> Option<Arc<Interface>> {
        let request = Request::DescribeNetworkInterfaces {
            interfaces: BTreeSet::new(),
            filters: vec![filter("network-interface-id", &[&interface.to_string()])],
            page: Page::default(),
        };
        // As the operator, who has no token bucket; what is seen is the same.
        match self.cloud.apply(self.now, &request) {
            Ok(Response::DescribeNetworkInterfaces { mut interfaces, .. }) => interfaces.pop(),
            other => panic!("{other:?}"),
        }
    }

    fn later(&mut self, span: Millis) {
        self.now = self.now + span;
        self.cloud.advance(self.now);
    }

    fn set_faults(&mut self, set: impl FnOnce(&mut Faults)) {
        let mut faults = self.cloud.faults().clone();
        set(&mut faults);
        self.cloud.set_faults(faults);
    }

    fn changes(&mut self) -> Vec<Change> {
        self.cloud.take_events().into_iter().map(|event| event.change).collect()
    }
}

fn filter(name: &str, values: &[&str]) -> Filter {
    Filter { name: name.to_owned(), values: values.iter().map(|value| (*value).to_owned()).collect() }
}
