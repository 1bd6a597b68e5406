"""A front before the emulated EC2 that can show a crowd: an answer of many network interfaces.

Everything else goes to the emulator behind it. The crowd is written once, beforehand, so that
making it costs next to nothing while somebody else's reading of it is measured.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from providers.sim.http_door import Answer, Call

TOKEN = "crowd-"  # noqa: S105 - of a page
KEPT_HEADERS = frozenset(
    {
        "content-type",
        "authorization",
        "x-aws-ec2-metadata-token",
        "x-aws-ec2-metadata-token-ttl-seconds",
    }
)

_HEAD = (
    '<DescribeNetworkInterfacesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    "<requestId>front</requestId><networkInterfaceSet>"
)
_TAIL = "</networkInterfaceSet>{token}</DescribeNetworkInterfacesResponse>"

# One ENI of another node in the form of DescribeNetworkInterfaces: ten addresses, as an m5.large
# with default settings has, the tags of aws-node, one group.
_ENI = """<item><networkInterfaceId>eni-{n:017x}</networkInterfaceId><subnetId>{subnet}</subnetId>
<vpcId>{vpc}</vpcId><availabilityZone>us-west-2a</availabilityZone>
<description>aws-K8S-i-{n:017x}</description><ownerId>123456789012</ownerId>
<requesterId>AROA:i-{n:017x}</requesterId><requesterManaged>false</requesterManaged>
<status>available</status><macAddress>06:00:00:00:{high:02x}:{low:02x}</macAddress>
<privateIpAddress>10.9.{high}.{low}</privateIpAddress>
<privateDnsName>ip-10-9-{high}-{low}.us-west-2.compute.internal</privateDnsName>
<sourceDestCheck>true</sourceDestCheck><interfaceType>interface</interfaceType>
<groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>nodes</groupName></item></groupSet>
<tagSet><item><key>node.k8s.amazonaws.com/instance_id</key><value>i-{n:017x}</value></item>
<item><key>node.k8s.amazonaws.com/createdAt</key><value>2026-01-01T00:00:00Z</value></item>
<item><key>cluster.k8s.amazonaws.com/name</key><value>bench</value></item></tagSet>
<privateIpAddressesSet>{addresses}</privateIpAddressesSet></item>"""

_ADDRESS = (
    "<item><privateIpAddress>10.{net}.{high}.{low}</privateIpAddress>"
    "<privateDnsName>ip-10-{net}-{high}-{low}.us-west-2.compute.internal</privateDnsName>"
    "<primary>{primary}</primary></item>"
)


def crowd(count: int, *, subnet_id: str, vpc_id: str) -> list[str]:
    """So many ENIs, none of which this node made, as items of an answer."""
    return [_item(n, subnet_id, vpc_id) for n in range(1, count + 1)]


def crowd_page(items: list[str], start: int, size: int) -> bytes:
    """One page of an answer, with the token of the next one."""
    following = start + size
    token = f"<nextToken>{TOKEN}{following}</nextToken>" if following < len(items) else ""
    return (_HEAD + "".join(items[start:following]) + _TAIL.format(token=token)).encode()


def _item(n: int, subnet_id: str, vpc_id: str) -> str:
    high, low = divmod(n, 256)
    addresses = "".join(
        _ADDRESS.format(net=9 + k, high=high, low=low, primary=str(k == 0).lower())
        for k in range(10)
    )
    return _ENI.format(n=n, high=high, low=low, subnet=subnet_id, vpc=vpc_id, addresses=addresses)


@dataclass(slots=True)
class Front:
    """Answers as EC2 and as the metadata service; `show_crowd` arms the crowd for the next look at
    unattached ENIs.

    `began` and `ended` are when its first page went out and when the client, which has read it all,
    went on to ask for the VPC's blocks (monotonic seconds; 0 while it has not happened).
    """

    ec2: str
    imds: str
    items: list[str] = field(default_factory=list)
    is_armed: bool = False
    began: float = 0.0
    ended: float = 0.0

    def show_crowd(self, items: list[str]) -> None:
        """Have the next look show these."""
        self.items, self.is_armed, self.began, self.ended = items, True, 0.0, 0.0

    def as_ec2(self, call: Call) -> Answer:
        """One EC2 call: a page of the crowd, or whatever the emulator says."""
        page = self._page(urllib.parse.parse_qs(call.body.decode()))
        if page is None:
            return _forward(self.ec2, call)
        return Answer(status=200, body=page, headers={"Content-Type": "text/xml"})

    def as_imds(self, call: Call) -> Answer:
        """One request of the metadata service."""
        if self.began and not self.ended and call.path.endswith("vpc-ipv4-cidr-blocks"):
            self.ended = time.monotonic()
        return _forward(self.imds, call)

    def _page(self, form: dict[str, list[str]]) -> bytes | None:
        if form.get("Action") != ["DescribeNetworkInterfaces"]:
            return None
        size = int(form.get("MaxResults", ["1000"])[0])
        token = form.get("NextToken", [""])[0]
        if token.startswith(TOKEN):
            return crowd_page(self.items, int(token.removeprefix(TOKEN)), size)
        if self.is_armed and ["available"] in form.values():
            self.is_armed, self.began = False, time.monotonic()
            return crowd_page(self.items, 0, size)
        return None


def _forward(behind: str, call: Call) -> Answer:
    kept = {k: v for k, v in call.headers.items() if k in KEPT_HEADERS}
    request = urllib.request.Request(  # noqa: S310 - the emulator's own address
        behind + call.path, data=call.body or None, headers=kept, method=call.method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as got:  # noqa: S310
            return Answer(
                status=got.status,
                body=got.read(),
                headers={"Content-Type": got.headers.get("Content-Type", "text/xml")},
            )
    except urllib.error.HTTPError as refusal:
        return Answer(status=refusal.code, body=refusal.read())
