"""What the demo asks by plain HTTP: the EC2 API of the emulated cloud, and the metadata service.

To be called inside a namespace from which they can be reached: the VPC's own, or a node's.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from providers.sim.lab_cloud import EC2_ENDPOINT

METADATA = "http://169.254.169.254/latest"
_API_VERSION = "2016-11-15"  # EC2 API Reference, "Common query parameters"
_HTTP_SECONDS = 5.0


def ec2(action: str, **parameters: str) -> ET.Element:
    """One unsigned call to the EC2 API; the answer, its tags without their XML namespace."""
    query = {"Action": action, "Version": _API_VERSION, **parameters}
    answer = http("GET", f"{EC2_ENDPOINT}/?{urllib.parse.urlencode(query)}")
    root = ET.fromstring(answer)  # noqa: S314 - our own emulator's
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def make_security_group(vpc_id: str, name: str) -> str:
    """A security group of that name; its id."""
    asked = {"GroupName": name, "GroupDescription": name, "VpcId": vpc_id}
    return ec2("CreateSecurityGroup", **asked).findtext("groupId", "")


def security_groups(eni_id: str) -> frozenset[str]:
    """The ids of an ENI's security groups."""
    answer = ec2("DescribeNetworkInterfaces", **{"NetworkInterfaceId.1": eni_id})
    return frozenset(element.text or "" for element in answer.iterfind(".//groupSet/item/groupId"))


def own_instance_id() -> str:
    """What a program on the node learns from the metadata service, version 2."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = http("PUT", f"{METADATA}/api/token", lifetime)
    return http("GET", f"{METADATA}/meta-data/instance-id", {"X-aws-ec2-metadata-token": token})


def http(method: str, url: str, headers: Mapping[str, str] | None = None) -> str:
    """One request; the body of its answer. OSError where there is none or it is an error."""
    request = urllib.request.Request(url, method=method, headers=dict(headers or {}))  # noqa: S310
    with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 - http only
        return str(answer.read().decode())
