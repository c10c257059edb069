//! The interface document of Azure's wireserver, `/machine/plugins?comp=nmagent&type=getinterfaceinfov1`, in the form in which
//! azure-container-networking reads it.

use std::fmt::Write;

use http::{Request, StatusCode};

use super::{Document, TEXT, parameter};
use crate::exchange::{self, HttpReply};

const XML: &str = "application/xml; charset=utf-8";

pub(super) fn answer<B>(document: &Document, request: &Request<B>, primary_last: bool) -> HttpReply {
    let asked = (parameter(request, "comp"), parameter(request, "type"));
    let wanted = (Some("nmagent".to_owned()), Some("getinterfaceinfov1".to_owned()));
    if request.uri().path() != "/machine/plugins" && request.uri().path() != "/machine/plugins/" || asked != wanted {
        return exchange::reply(StatusCode::NOT_FOUND, TEXT, "");
    }
    exchange::reply(StatusCode::OK, XML, interfaces(document, primary_last))
}

/// Nothing in it needs to be escaped: addresses, numbers and words of ours.
fn interfaces(document: &Document, primary_last: bool) -> String {
    let mut xml = String::from("<Interfaces>");
    for nic in &document.nics {
        let is_primary = nic.index == 0;
        // Writing to a String cannot fail.
        let _infallible = write!(
            xml,
            "<Interface MacAddress=\"{}\" IsPrimary=\"{is_primary}\"><IPSubnet Prefix=\"{}\">",
            nic.interface.mac.bare(),
            nic.cidr
        );
        let primary = nic.interface.primary.to_string();
        for address in nic.configurations(primary_last) {
            let is_primary = address == primary;
            let _infallible = write!(xml, "<IPAddress Address=\"{address}\" IsPrimary=\"{is_primary}\"/>");
        }
        xml.push_str("</IPSubnet></Interface>");
    }
    xml.push_str("</Interfaces>");
    xml
}
