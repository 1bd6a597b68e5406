"""A front before the emulated EC2 that can show a crowd: an answer of many network interfaces.

Everything else goes to the emulator behind it. The crowd is written once, beforehand, so that
making it costs nothing while somebody else's reading of it is measured; like EC2 it gives 1,000 at
most at once.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from providers.sim.http_door import Answer, Call

PAGE = 1000

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


def crowd_pages(count: int, *, subnet_id: str, vpc_id: str) -> list[bytes]:
    """The pages of an answer with so many ENIs, none of which this node made."""
    items = [_item(n, subnet_id, vpc_id) for n in range(1, count + 1)]
    starts = range(0, count, PAGE)
    return [
        (_HEAD + "".join(items[i : i + PAGE]) + _TAIL.format(token=_token(i, count))).encode()
        for i in starts
    ]


def _token(start: int, count: int) -> str:
    following = start + PAGE
    return f"<nextToken>crowd-{following}</nextToken>" if following < count else ""


def _item(n: int, subnet_id: str, vpc_id: str) -> str:
    high, low = divmod(n, 256)
    addresses = "".join(
        _ADDRESS.format(net=9 + k, high=high, low=low, primary=str(k == 0).lower())
        for k in range(10)
    )
    return _ENI.format(n=n, high=high, low=low, subnet=subnet_id, vpc=vpc_id, addresses=addresses)


@dataclass(slots=True)
class Front:
    """Answers as EC2; `show_crowd` arms the crowd for the next look at unattached ENIs.

    `began` and `ended` are when its first page went out and when the client's next other call came:
    between them the client reads the crowd (monotonic seconds; 0 while it has not happened).
    """

    behind: str
    pages: list[bytes] = field(default_factory=list)
    is_armed: bool = False
    began: float = 0.0
    ended: float = 0.0

    def show_crowd(self, pages: list[bytes]) -> None:
        """Have the next look show these pages."""
        self.pages, self.is_armed, self.began, self.ended = pages, True, 0.0, 0.0

    def respond(self, call: Call) -> Answer:
        """One call: a page of the crowd, or whatever the emulator says."""
        form = urllib.parse.parse_qs(call.body.decode())
        page = self._page(form)
        if page is not None:
            return Answer(status=200, body=page, headers={"Content-Type": "text/xml"})
        if self.began and not self.ended:
            self.ended = time.monotonic()
        return self._forward(call)

    def _page(self, form: dict[str, list[str]]) -> bytes | None:
        if form.get("Action") != ["DescribeNetworkInterfaces"]:
            return None
        token = form.get("NextToken", [""])[0]
        if token.startswith("crowd-"):
            return self.pages[int(token.removeprefix("crowd-")) // PAGE]
        if self.is_armed and ["available"] in form.values():
            self.is_armed, self.began = False, time.monotonic()
            return self.pages[0]
        return None

    def _forward(self, call: Call) -> Answer:
        kept = {k: v for k, v in call.headers.items() if k in ("content-type", "authorization")}
        request = urllib.request.Request(  # noqa: S310 - the emulator's own address
            self.behind + call.path, data=call.body or None, headers=kept, method=call.method
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
