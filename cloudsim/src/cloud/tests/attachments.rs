//! Interfaces come, go, are late, and outlive their instances.

use super::*;

#[test]
fn an_instance_has_as_many_interfaces_as_its_type_allows() {
    let mut world = World::new();
    let (instance, _) = world.launch("m5.large");
    for index in 1..3 {
        let interface = world.create();
        world.attach(interface, instance, index).unwrap();
    }
    let (extra, other) = (world.create(), world.create());
    assert_eq!(world.attach(extra, instance, 2), Err("InvalidParameterValue"), "the index is taken");
    assert_eq!(world.attach(extra, instance, 3), Err("AttachmentLimitExceeded"));
    let (second, _) = world.launch("m5.xlarge");
    world.attach(extra, second, 1).unwrap();
    assert_eq!(world.attach(extra, second, 2), Err("InvalidNetworkInterface.InUse"));
    assert_eq!(world.attach(other, InstanceId(1), 1), Err("InvalidInstanceID.NotFound"));
    assert_eq!(world.attach(InterfaceId(1), second, 3), Err("InvalidNetworkInterfaceID.NotFound"));
    world.cloud.audit().unwrap();
}

#[test]
fn network_cards_have_places_of_their_own() {
    let mut world = World::new();
    let (instance, _) = world.launch("p5.48xlarge");
    let first = world.create();
    let attach =
        |interface, device_index, network_card| Request::AttachNetworkInterface { interface, instance, device_index, network_card };
    world.call(&attach(first, 1, 0)).unwrap();
    let second = world.create();
    assert_eq!(world.call(&attach(second, 2, 0)), Err("AttachmentLimitExceeded"), "two interfaces a card");
    assert_eq!(world.call(&attach(second, 1, 32)), Err("InvalidParameterValue"), "32 cards");
    world.call(&attach(second, 1, 31)).unwrap();
}

#[test]
fn the_guest_sees_a_device_later_than_the_api_says() {
    let mut world = World::new();
    world.set_faults(|faults| {
        faults.devices.attaching = Latency::exactly(Millis(500));
        faults.devices.appearing = Latency::exactly(Millis(3000));
        faults.devices.detaching = Latency::exactly(Millis(2000));
    });
    let (instance, _) = world.launch("m5.large");
    let interface = world.create();
    let _before = world.changes();
    let attachment = world.attach(interface, instance, 1).unwrap();
    assert_eq!(world.describe(interface).unwrap().status(), "attaching");
    assert_eq!(world.cloud.next_change(), Some(world.now + Millis(500)));
    world.later(Millis(500));
    assert_eq!(world.describe(interface).unwrap().status(), "in-use");
    assert_eq!(world.changes(), []);
    world.later(Millis(2499));
    assert!(world.cloud.interface(interface).unwrap().device().is_none());
    world.later(Millis(1));
    let device = world.cloud.interface(interface).unwrap().device().cloned();
    assert_eq!(device, Some(Device { name: "eth1".to_owned(), index: 1 }));
    assert!(matches!(&world.changes()[..], [Change::Attached { interface: seen }] if seen.id == interface));

    let detach = Request::DetachNetworkInterface { attachment, force: false };
    world.call(&detach).unwrap();
    assert_eq!(world.describe(interface).unwrap().status(), "detaching");
    assert_eq!(world.call(&Request::DeleteNetworkInterface { interface }), Err("InvalidParameterValue"), "in use until then");
    assert_eq!(world.call(&detach), Err("IncorrectState"));
    world.later(Millis(2000));
    assert!(matches!(&world.changes()[..], [Change::Detached { interface: seen }] if seen.id == interface));
    assert_eq!(world.describe(interface).unwrap().status(), "available");
    assert_eq!(world.call(&detach), Err("InvalidAttachmentID.NotFound"));
    world.call(&Request::DeleteNetworkInterface { interface }).unwrap();
    assert_eq!(world.call(&Request::DeleteNetworkInterface { interface }), Err("InvalidNetworkInterfaceID.NotFound"));
    world.cloud.audit().unwrap();
}

#[test]
fn a_device_may_come_under_another_name_and_index() {
    let mut world = World::new();
    world.set_faults(|faults| faults.devices.misnamed = 1.0);
    let (instance, primary) = world.launch("m5.xlarge");
    let interface = world.create();
    world.attach(interface, instance, 1).unwrap();
    let index = |id| world.cloud.interface(id).unwrap().device().cloned().unwrap();
    assert_eq!(index(interface), Device { name: "ens6".to_owned(), index: 2 });
    assert_ne!(index(interface).index, index(primary).index);
    assert_eq!(world.cloud.interface(interface).unwrap().attachment.as_ref().unwrap().device_index, 1);
}

#[test]
fn the_primary_interface_stays() {
    let mut world = World::new();
    let (_, primary) = world.launch("m5.large");
    let attachment = world.cloud.interface(primary).unwrap().attachment.as_ref().unwrap().id;
    assert_eq!(world.call(&Request::DetachNetworkInterface { attachment, force: true }), Err("OperationNotPermitted"));
}

#[test]
fn what_is_not_deleted_on_termination_is_left_over() {
    let mut world = World::new();
    let (instance, primary) = world.launch("m5.large");
    let (kept, leaving) = (world.create(), world.create());
    world.attach(kept, instance, 1).unwrap();
    let attachment = world.attach(leaving, instance, 2).unwrap();
    let change = AttributeChange::DeleteOnTermination { attachment, delete: true };
    assert_eq!(
        world.call(&Request::ModifyNetworkInterfaceAttribute { interface: kept, change: change.clone() }),
        Err("InvalidAttachmentID.NotFound")
    );
    world.call(&Request::ModifyNetworkInterfaceAttribute { interface: leaving, change }).unwrap();
    world.cloud.terminate(world.now, instance).unwrap();
    assert_eq!(world.cloud.interface(kept).map(Interface::status), Some("available"));
    assert!(world.cloud.interface(leaving).is_none() && world.cloud.interface(primary).is_none());
    assert_eq!(world.cloud.terminate(world.now, instance).unwrap_err().code, "InvalidInstanceID.NotFound");
    world.cloud.audit().unwrap();
    world.later(Millis::seconds(3600));
    assert!(world.cloud.instance(instance).is_none());
}

#[test]
fn a_client_token_makes_one_interface() {
    let mut world = World::new();
    let mut request = |description: &str, token: Option<&str>| {
        let mut spec = InterfaceSpec::new(world.subnet);
        spec.description = description.to_owned();
        world.call(&Request::CreateNetworkInterface { spec, client_token: token.map(str::to_owned) })
    };
    let first = request("one", Some("token")).unwrap();
    assert_eq!(request("one", Some("token")).unwrap(), first);
    assert_eq!(request("other", Some("token")), Err("IdempotentParameterMismatch"));
    assert_ne!(request("one", None).unwrap(), first);
    assert_ne!(request("one", Some("another")).unwrap(), first);
    assert_eq!(world.cloud.interfaces().count(), 3);
}
