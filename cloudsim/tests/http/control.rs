//! The control API.

use cloudsim::http::Role;
use serde_json::{Value, json};

use super::client::{Lab, Reply, query, send};

struct Control(String);

impl Control {
    fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        send(method, &format!("{}{path}", self.0), &[("content-type", "application/json")], &body).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.send("GET", path, &Value::Null).json()
    }
}

#[test]
fn a_cloud_is_made_and_watched_from_elsewhere() {
    let lab = Lab::new();
    let control = Control(lab.listen(Role::Control));
    let made =
        control.send("POST", "/subnets", &json!({ "availability_zone": "us-east-1b", "cidr": "10.9.0.0/24", "ipv6_cidr": "fd00:9::/64" }));
    let subnet = made.json()["id"].as_str().unwrap().to_owned();
    let spec = json!({
        "instance_type": "m5.large", "role": "node",
        "interfaces": [{ "subnet": subnet, "mac": "02:00:00:00:00:11", "primary": "10.9.0.11", "ipv6": ["fd00:9::11"], "ipv4_prefix_count": 1 }],
    });
    let launched = control.send("POST", "/instances", &spec).json();
    let instance = launched["id"].as_str().unwrap().to_owned();
    let state = control.get("/state");
    let interface = state["interfaces"].as_array().unwrap().iter().find(|found| found["primary"] == "10.9.0.11").unwrap();
    assert_eq!((&interface["mac"], &interface["attachment"]["instance"]), (&json!("02:00:00:00:00:11"), &json!(instance)));

    let listen = json!({ "listen": "127.0.0.1:0", "role": "azure", "instance": instance });
    let address = control.send("POST", "/listeners", &listen).json()["address"].as_str().unwrap().to_owned();
    let nic = send("GET", &format!("http://{address}/metadata/instance?api-version=2021-02-01"), &[("Metadata", "true")], "").unwrap();
    assert_eq!(nic.json()["network"]["interface"][0]["macAddress"], "020000000011");
    let taken = control.send("POST", "/listeners", &json!({ "listen": address, "role": "api" }));
    assert_eq!((taken.status, &taken.json()["code"]), (409, &json!("CannotListen")));

    assert_eq!(control.send("POST", &format!("/subnets/{subnet}/fragment"), &json!({ "prefixes_left": 0 })).status, 200);
    let id = interface["id"].as_str().unwrap();
    let form = format!("Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={id}&Ipv4PrefixCount=1");
    let refused = send("POST", &format!("{}/call", control.0), &[], &form).unwrap();
    assert_eq!(refused.element("Code").as_deref(), Some("InsufficientCidrBlocks"));
    assert_eq!(control.send("DELETE", &format!("/instances/{instance}"), &Value::Null).status, 200);
    let again = control.send("DELETE", &format!("/instances/{instance}"), &Value::Null);
    assert_eq!((again.status, &again.json()["code"]), (400, &json!("InvalidInstanceID.NotFound")));
}

#[test]
fn faults_are_set_and_calls_are_counted() {
    let lab = Lab::new();
    let control = Control(lab.listen(Role::Control));
    let mut faults = control.get("/faults");
    faults["api"]["denied"] = json!(["DescribeSubnets"]);
    faults["devices"]["appearing"] = json!({ "min": 100, "max": 200 });
    assert_eq!(control.send("PUT", "/faults", &faults).status, 200);
    assert_eq!(control.get("/faults"), faults);
    assert_eq!(control.send("PUT", "/faults", &json!({ "api": { "weather": "bad" } })).status, 422, "a knob that is not there");
    let denied = query(&lab.api, "us-east-1", &[("Action", "DescribeSubnets")]).unwrap();
    assert_eq!((denied.status, denied.element("Code").as_deref()), (403, Some("UnauthorizedOperation")));
    let calls = control.get("/calls");
    assert_eq!(calls["total"]["refused"], 1);
    assert_eq!(calls["calls"]["by_action"]["DescribeSubnets"]["calls"], 1);
    assert_eq!(calls["calls"]["last"][0]["outcome"], "UnauthorizedOperation");
    control.send("DELETE", "/calls", &Value::Null);
    assert_eq!(control.get("/calls")["total"]["calls"], 0);
}

#[test]
fn events_are_waited_for() {
    let lab = Lab::new();
    let control = Control(lab.listen(Role::Control));
    let first = control.get("/events");
    assert_eq!((&first[0]["event"], &first[0]["number"]), (&json!("attached"), &json!(1)));
    assert_eq!(control.get("/events?after=1"), json!([]));
    let interface = lab.interface().id;
    let form = format!("Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={interface}&Ipv4PrefixCount=1");
    let second = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| control.get("/events?after=1&wait_seconds=15"));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(send("POST", &format!("{}/call", control.0), &[], &form).unwrap().status, 200);
        waiting.join().unwrap()
    });
    assert_eq!((&second[0]["event"], &second[0]["interface"]), (&json!("assigned"), &json!(interface)));
}
