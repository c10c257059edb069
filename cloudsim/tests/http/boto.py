"""The life of an interface with prefixes, by AWS's own Python client: requests are written and signed, and answers read, by its model of
the API. Arguments: endpoint, subnet, instance. Prints one JSON object, and ends with an exception where an answer is not as modelled."""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, subnet, instance = sys.argv[1:]
ec2 = boto3.client(
    "ec2",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="AKIDEXAMPLE",
    aws_secret_access_key="secret",
    config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=10),
)


def refusal(call, **parameters):
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


created = ec2.create_network_interface(
    SubnetId=subnet,
    Description="pods",
    ClientToken="once",
    Ipv4Prefixes=[{"Ipv4Prefix": "10.0.3.16/28"}],
    Ipv6PrefixCount=1,
    TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "node", "Value": "one"}]}],
)["NetworkInterface"]
interface = created["NetworkInterfaceId"]
attachment = ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1, NetworkCardIndex=0)
ec2.modify_network_interface_attribute(
    NetworkInterfaceId=interface,
    Attachment={"AttachmentId": attachment["AttachmentId"], "DeleteOnTermination": True},
)
assigned = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4PrefixCount=2)
named = ec2.assign_private_ip_addresses(NetworkInterfaceId=interface, PrivateIpAddresses=["10.0.3.5"])
assigned_v6 = ec2.assign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6PrefixCount=1)
ec2.create_tags(Resources=[interface], Tags=[{"Key": "colour", "Value": "blue"}])
pages = ec2.get_paginator("describe_network_interfaces").paginate(
    Filters=[{"Name": "tag:colour", "Values": ["blue"]}], PaginationConfig={"PageSize": 5}
)
(described,) = [found for page in pages for found in page["NetworkInterfaces"]]
unassigned = [prefix["Ipv4Prefix"] for prefix in assigned["AssignedIpv4Prefixes"]]
ec2.unassign_private_ip_addresses(NetworkInterfaceId=interface, Ipv4Prefixes=unassigned)
unassigned_v6 = ec2.unassign_ipv6_addresses(NetworkInterfaceId=interface, Ipv6Prefixes=assigned_v6["AssignedIpv6Prefixes"])
in_use = refusal(ec2.delete_network_interface, NetworkInterfaceId=interface)
ec2.detach_network_interface(AttachmentId=attachment["AttachmentId"])
left = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0]
ec2.delete_network_interface(NetworkInterfaceId=interface)
limits = ec2.describe_instance_types(InstanceTypes=["p4d.24xlarge"])["InstanceTypes"][0]["NetworkInfo"]

print(
    json.dumps(
        {
            "created_prefixes": [prefix["Ipv4Prefix"] for prefix in created["Ipv4Prefixes"]],
            "assigned": len(assigned["AssignedIpv4Prefixes"]),
            "named": [address["PrivateIpAddress"] for address in named["AssignedPrivateIpAddresses"]],
            "unassigned_v6": unassigned_v6["UnassignedIpv6Prefixes"] == assigned_v6["AssignedIpv6Prefixes"],
            "described": {
                "prefixes": len(described["Ipv4Prefixes"]),
                "prefixes_v6": len(described["Ipv6Prefixes"]),
                "addresses": len(described["PrivateIpAddresses"]),
                "device": described["Attachment"]["DeviceIndex"],
                "deleted_on_termination": described["Attachment"]["DeleteOnTermination"],
                "attached_in": described["Attachment"]["AttachTime"].year > 2000,
                "tags": sorted(tag["Key"] for tag in described["TagSet"]),
            },
            "left": [left["Status"], [prefix["Ipv4Prefix"] for prefix in left["Ipv4Prefixes"]]],
            "refusals": [
                in_use,
                refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=interface, Ipv4PrefixCount=1),
                refusal(ec2.describe_instance_types, InstanceTypes=["x9.nano"]),
            ],
            "cards": len(limits["NetworkCards"]),
            "subnet": ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"],
            "interfaces": len(ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["NetworkInterfaces"]),
        }
    )
)
