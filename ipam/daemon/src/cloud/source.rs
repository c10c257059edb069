//! The cloud that the configuration names.

use ipam_clouds::Source;
use ipam_clouds::aws::{ApiSettings, Aws, AwsSettings};
use ipam_clouds::azure::{Azure, AzureSettings};
use ipam_clouds::gcp::{Gcp, GcpSettings};
use ipnetwork::IpNetwork;

use crate::config::{AwsApi, Cloud};

impl From<&Cloud> for Source {
    /// A source that has asked nothing yet.
    fn from(cloud: &Cloud) -> Self {
        match cloud {
            Cloud::Aws { metadata, all_interfaces, api } => {
                let default = AwsSettings::default();
                let api = api.as_ref().map(|AwsApi { endpoint, subnets, subnet_tags, tags, security_groups }| ApiSettings {
                    endpoint: endpoint.clone(),
                    subnets: subnets.clone(),
                    subnet_tags: subnet_tags.clone(),
                    tags: tags.clone(),
                    security_groups: security_groups.clone(),
                    credentials: None,
                });
                let metadata = metadata.clone().unwrap_or(default.metadata);
                let settings = AwsSettings { metadata, all_interfaces: *all_interfaces, api };
                Self::Aws(Box::new(Aws::new(settings)))
            }
            Cloud::Azure { metadata, wireserver } => {
                let default = AzureSettings::default();
                let metadata = metadata.clone().unwrap_or(default.metadata);
                let wireserver = wireserver.clone().unwrap_or(default.wireserver);
                Self::Azure(Azure::new(AzureSettings { metadata, wireserver }))
            }
            Cloud::Gcp { metadata } => {
                let metadata = metadata.clone().unwrap_or(GcpSettings::default().metadata);
                Self::Gcp(Gcp::new(GcpSettings { metadata, local_routes: Some(local_routes) }))
            }
        }
    }
}

fn local_routes() -> Result<Vec<IpNetwork>, String> {
    datapath::local_routes::of_guest_agent().map_err(|error| error.to_string())
}
