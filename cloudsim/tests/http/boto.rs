//! AWS's own Python client talks to us: it writes, signs and reads by AWS's model of the API, prefixes included, which moto lacks.

use std::process::Command;

use serde_json::{Value, json};

use super::client::Lab;
use super::python;

#[test]
fn the_client_of_aws_writes_signs_and_reads_by_its_own_model() {
    let Some(python) = python::program("python") else { return };
    let lab = Lab::new();
    let output = Command::new(python)
        .args(["-c", include_str!("boto.py"), &lab.api, &lab.subnet.to_string(), &lab.instance.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "created_prefixes": ["10.0.3.16/28"],
        "assigned": 2,
        "named": ["10.0.3.5"],
        "unassigned_v6": true,
        "described": {
            "prefixes": 3, "prefixes_v6": 2, "addresses": 2, "device": 1, "deleted_on_termination": true, "attached_in": true,
            "tags": ["colour", "node"],
        },
        "left": ["available", ["10.0.3.16/28"]],
        "refusals": ["InvalidParameterValue", "InvalidNetworkInterfaceID.NotFound", "InvalidInstanceType"],
        "cards": 4,
        "subnet": 4090,
        "interfaces": 1,
    });
    assert_eq!(said, expected);
}
