"""The emulated metadata service, over HTTP and through botocore's own client."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.utils import IMDSRegionProvider, InstanceMetadataFetcher

from providers.sim.ec2_state import Delays
from providers.sim.http_door import DEFAULT_TTL, Call, Door
from providers.sim.imds import Imds, ImdsSettings
from providers.sim.imds_faults import ImdsFault, ImdsFaultKind
from providers.sim.imds_tree import ROLE
from tests.sim.lab import Lab, serve

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


@dataclass(slots=True)
class Metadata:
    """The service, asked as one node."""

    lab: Lab
    imds: Imds
    door: Door
    url: str
    node: str

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("X-Sim-Instance", self.node)
        request = urllib.request.Request(f"{self.url}/latest/{path}", method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def token(self, seconds: int = 60) -> str:
        status, token = self.ask("api/token", "PUT", **{TTL: str(seconds)})
        assert status == 200
        return token

    def get(self, path: str) -> str:
        status, text = self.ask(f"meta-data/{path}", **{TOKEN: self.token()})
        return text if status == 200 else f"<{status}>"

    def macs(self) -> list[str]:
        return self.get("network/interfaces/macs/").split("\n")

    def fault(self, kind: ImdsFaultKind, **more: Any) -> None:
        self.imds.settings.faults.append(ImdsFault(kind=kind, **more))


@pytest.fixture
def metadata(lab: Lab) -> Iterator[Metadata]:
    imds = Imds(lab.emulator, ImdsSettings(trusts_names=True))
    door, url = serve(imds.respond)
    yield Metadata(lab, imds, door, url, lab.node())
    lab.emulator.stop()
    door.close()


def test_the_machine_is_described(metadata: Metadata) -> None:
    paths = ("instance-id", "instance-type", "local-ipv4", "placement/availability-zone")
    assert [metadata.get(path) for path in (*paths, "placement/region")] == [
        metadata.node,
        "m5.large",
        "10.0.1.4",
        "us-west-2a",
        "us-west-2",
    ]


def test_each_interface_is_described(metadata: Metadata) -> None:
    lab = metadata.lab
    eni = lab.eni(secondaries=2, subnet_id=lab.small_subnet_id)
    lab.attach(eni, metadata.node)
    mac = lab.shown(eni)["MacAddress"]
    names = ("interface-id", "device-number", "subnet-id", "local-ipv4s", "subnet-ipv4-cidr-block")
    found = [metadata.get(f"network/interfaces/macs/{mac}/{name}") for name in names]
    assert found == [
        eni,
        "1",
        lab.small_subnet_id,
        "10.0.2.4\n10.0.2.5\n10.0.2.6",
        "10.0.2.0/28",
    ]


def test_an_interface_names_its_vpc_and_groups(metadata: Metadata) -> None:
    lab = metadata.lab
    nic = lab.primary(metadata.node)
    base = f"network/interfaces/macs/{metadata.get('mac')}"
    names = ("vpc-id", "vpc-ipv4-cidr-blocks", "security-group-ids")
    assert [metadata.get(f"{base}/{name}") for name in names] == [
        lab.vpc_id,
        "10.0.0.0/16",
        nic["Groups"][0]["GroupId"],
    ]


def test_the_list_of_macs_has_a_slash_after_each(metadata: Metadata) -> None:
    metadata.lab.attach(metadata.lab.eni(), metadata.node)
    macs = metadata.macs()
    assert (len(macs), all(mac.endswith("/") for mac in macs)) == (2, True)


def test_directories_are_listed_with_and_without_a_last_slash(metadata: Metadata) -> None:
    assert (
        metadata.get("placement")
        == metadata.get("placement/")
        == ("availability-zone\navailability-zone-id\nregion")
    )


@pytest.mark.parametrize(
    "path", ["ipv6", "spot/instance-action", "events/recommendations/rebalance", "local-ipv", ""]
)
def test_what_does_not_apply_is_not_found(metadata: Metadata, path: str) -> None:
    found = metadata.get(path)
    assert found == "<404>" if path else "instance-id" in found


def test_the_network_card_is_named_only_where_there_are_several(metadata: Metadata) -> None:
    mac = metadata.get("mac")
    single = metadata.get(f"network/interfaces/macs/{mac}/network-card")
    metadata.node = metadata.lab.node("p4d.24xlarge")
    mac = metadata.get("mac")
    assert (single, metadata.get(f"network/interfaces/macs/{mac}/network-card")) == ("<404>", "0")


def test_the_identity_document_agrees(metadata: Metadata) -> None:
    status, text = metadata.ask("dynamic/instance-identity/document", **{TOKEN: metadata.token()})
    document = json.loads(text)
    assert (status, document["instanceId"], document["privateIp"]) == (
        200,
        metadata.node,
        "10.0.1.4",
    )


def test_nothing_is_told_without_a_token(metadata: Metadata) -> None:
    assert metadata.ask("meta-data/instance-id")[0] == 401


def test_an_expired_token_is_refused(metadata: Metadata) -> None:
    token = metadata.token(seconds=5)
    metadata.lab.clock.advance(6)
    assert metadata.ask("meta-data/instance-id", **{TOKEN: token})[0] == 401


def test_another_machines_token_is_refused(metadata: Metadata) -> None:
    token = metadata.token()
    metadata.node = metadata.lab.node()
    assert metadata.ask("meta-data/instance-id", **{TOKEN: token})[0] == 401


@pytest.mark.parametrize("seconds", ["0", "21601", "soon", ""])
def test_a_token_lives_from_a_second_to_six_hours(metadata: Metadata, seconds: str) -> None:
    assert metadata.ask("api/token", "PUT", **{TTL: seconds})[0] == 400


def test_a_token_is_not_given_to_a_proxy(metadata: Metadata) -> None:
    status, _ = metadata.ask("api/token", "PUT", **{TTL: "60", "X-Forwarded-For": "192.0.2.1"})
    assert status == 403


def test_the_machine_can_be_named_in_the_path(metadata: Metadata) -> None:
    other = metadata.lab.node()
    base = f"{metadata.url}/instance/{other}/latest"
    put = urllib.request.Request(f"{base}/api/token", method="PUT", headers={TTL: "60"})
    with urllib.request.urlopen(put) as answer:
        token = answer.read().decode()
    get = urllib.request.Request(f"{base}/meta-data/instance-id", headers={TOKEN: token})
    with urllib.request.urlopen(get) as answer:
        assert answer.read().decode() == other


def test_with_a_fabric_the_source_address_tells_who_asks(lab: Lab) -> None:
    imds = Imds(lab.emulator, ImdsSettings(trusts_names=False))
    first, second = lab.node(), lab.node()

    def ask(peer: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        call = Call(method=method, path=path, headers=headers, body=b"", peer=peer)
        answer = imds.respond(call)
        assert answer is not None
        return answer.status, answer.body.decode()

    _, token = ask("10.0.1.5", "PUT", "/latest/api/token", {TTL.lower(): "60"})
    headers = {TOKEN.lower(): token, "x-sim-instance": first}
    told = ask("10.0.1.5", "GET", "/latest/meta-data/instance-id", headers)
    stranger = ask("10.0.1.99", "GET", "/latest/meta-data/instance-id", headers)
    assert (told, stranger[0]) == ((200, second), 404)


def test_only_the_token_answer_has_the_hop_limit(metadata: Metadata) -> None:
    metadata.imds.settings.hop_limit = 1
    host, port = metadata.door.server_address[:2]
    seen = []
    with socket.create_connection((str(host), int(port)), timeout=5) as connection:
        for head in (
            f"PUT /latest/api/token HTTP/1.1\r\n{TTL}: 60\r\n",
            "GET /latest HTTP/1.1\r\n",
        ):
            connection.sendall(f"{head}Host: x\r\n\r\n".encode())
            assert connection.recv(4096)
            (served,) = metadata.door._open
            seen.append(served.getsockopt(socket.IPPROTO_IP, socket.IP_TTL))
    assert seen == [1, DEFAULT_TTL]


def test_metadata_lags_the_api(metadata: Metadata) -> None:
    lab = metadata.lab
    lab.emulator.state.delays = Delays(imds_lag_seconds=10)
    lab.attach(lab.eni(), metadata.node)
    early = len(metadata.macs())
    lab.clock.advance(11)
    assert (early, len(metadata.macs()), len(lab.nics(metadata.node))) == (1, 2, 2)


def test_an_interface_appears_when_attached_and_not_before(metadata: Metadata) -> None:
    lab = metadata.lab
    lab.emulator.state.delays = Delays(attach_seconds=2)
    lab.attach(lab.eni(), metadata.node)
    early = len(metadata.macs())
    lab.clock.advance(3)
    assert (early, len(metadata.macs())) == (1, 2)


def test_a_wrong_value_can_be_told(metadata: Metadata) -> None:
    metadata.fault(ImdsFaultKind.WRONG_VALUE, path="/latest/meta-data/mac", value="02:00")
    metadata.fault(ImdsFaultKind.WRONG_VALUE, path="meta-data/local-ipv4")
    assert (metadata.get("mac"), metadata.get("local-ipv4")) == ("02:00", "<404>")


def test_an_interface_can_be_missing_from_the_list(metadata: Metadata) -> None:
    lab = metadata.lab
    eni = lab.eni()
    lab.attach(eni, metadata.node)
    metadata.fault(ImdsFaultKind.MISSING_ENI, value=eni)
    assert metadata.macs() == [f"{metadata.get('mac')}/"]


def test_errors_can_be_told(metadata: Metadata) -> None:
    metadata.fault(ImdsFaultKind.ERROR)
    assert metadata.ask("meta-data/mac")[0] == 500


def test_a_service_that_is_down_answers_nothing(metadata: Metadata) -> None:
    metadata.fault(ImdsFaultKind.DOWN)
    request = urllib.request.Request(f"{metadata.url}/latest/", headers={})
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.2)


def test_a_fault_of_one_machine_spares_the_others(metadata: Metadata) -> None:
    metadata.fault(ImdsFaultKind.ERROR, instance_id=metadata.node)
    struck = metadata.ask("meta-data/mac")[0]
    metadata.node = metadata.lab.node()
    assert (struck, metadata.get("instance-type")) == (500, "m5.large")


def test_botocore_gets_credentials_from_it(metadata: Metadata) -> None:
    metadata.lab.clock.now += 10 * 365 * 86400  # botocore refuses credentials that have expired
    fetcher = InstanceMetadataFetcher(base_url=f"{metadata.url}/instance/{metadata.node}/")
    found: dict[str, Any] = fetcher.retrieve_iam_role_credentials()
    assert (found["role_name"], found["token"]) == (ROLE, "emulated")


def test_botocore_gets_the_region_from_it(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.session import Session

    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url + "/")
    assert IMDSRegionProvider(Session()).provide() == "us-west-2"


def test_prefixes_and_ipv6_are_told_one_a_line(metadata: Metadata) -> None:
    lab = metadata.lab
    lab.give_v6()
    eni = lab.eni(Ipv4PrefixCount=2, Ipv6AddressCount=1)
    lab.ec2.assign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6PrefixCount=1)
    lab.attach(eni, metadata.node)
    base = f"network/interfaces/macs/{lab.shown(eni)['MacAddress']}"
    names = (
        "ipv4-prefix",
        "ipv6s",
        "ipv6-prefix",
        "subnet-ipv6-cidr-blocks",
        "vpc-ipv6-cidr-blocks",
    )
    assert [metadata.get(f"{base}/{name}") for name in names] == [
        "10.0.1.16/28\n10.0.1.32/28",
        "2001:db8:0:101::4",
        "2001:db8:0:101:1::/80",
        "2001:db8:0:101::/64",
        "2001:db8:0:100::/56",
    ]


@pytest.mark.parametrize("name", ["ipv4-prefix", "ipv6s", "ipv6-prefix", "subnet-ipv6-cidr-blocks"])
def test_what_an_interface_has_none_of_is_not_found(metadata: Metadata, name: str) -> None:
    assert metadata.get(f"network/interfaces/macs/{metadata.get('mac')}/{name}") == "<404>"


def test_prefixes_lag_in_the_metadata_too(metadata: Metadata) -> None:
    lab = metadata.lab
    eni = lab.primary(metadata.node)["NetworkInterfaceId"]
    lab.emulator.state.delays = Delays(imds_lag_seconds=10)
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, Ipv4PrefixCount=1)
    path = f"network/interfaces/macs/{metadata.get('mac')}/ipv4-prefix"
    early = metadata.get(path)
    lab.clock.advance(11)
    assert (early, metadata.get(path)) == ("<404>", "10.0.1.16/28")


def test_an_interface_can_be_missing_for_a_minute(metadata: Metadata) -> None:
    lab = metadata.lab
    eni = lab.eni()
    lab.attach(eni, metadata.node)
    metadata.fault(ImdsFaultKind.MISSING_ENI, value=eni, until_unix=lab.clock.now + 60)
    seen = []
    for _ in range(3):
        seen.append(len(metadata.macs()))
        lab.clock.advance(30)
    assert seen == [1, 1, 2]


def test_an_efa_only_interface_is_listed_without_addresses(metadata: Metadata) -> None:
    lab = metadata.lab
    eni = lab.eni(InterfaceType="efa-only")
    lab.attach(eni, metadata.node)
    base = f"network/interfaces/macs/{lab.shown(eni)['MacAddress']}"
    assert [metadata.get(f"{base}/{name}") for name in ("interface-id", "local-ipv4s")] == [
        eni,
        "<404>",
    ]


def test_a_machine_is_never_known_by_an_efa_only_interface(metadata: Metadata) -> None:
    lab = metadata.lab
    primary, eni = lab.primary(metadata.node), lab.eni(InterfaceType="efa-only")
    lab.attach(eni, metadata.node)
    metadata.fault(ImdsFaultKind.MISSING_ENI, value=primary["NetworkInterfaceId"])
    mac = lab.shown(eni)["MacAddress"]
    assert (metadata.macs(), metadata.get("local-ipv4")) == ([f"{mac}/"], "<404>")


def test_the_machines_own_ipv6_address_and_zone_id_are_told(metadata: Metadata) -> None:
    lab = metadata.lab
    lab.give_v6()
    metadata.node = lab.node(Ipv6AddressCount=1)
    assert (metadata.get("ipv6"), metadata.get("placement/availability-zone-id")) == (
        "2001:db8:0:101::4",
        "usw2-az2",
    )
