"""rpc.CNIBackend over a real unix socket: what aws-node's plugin is answered, field for field."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest
from compat import rpc_pb2 as pb
from compat import rpc_pb2_grpc as pb_grpc
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ipam_api.v1 import ipam_pb2

from ipamd.errors import SettingsError
from ipamd.handlers import allocation_message
from ipamd.model import AddressState, WiredBy
from ipamd.peer_socket import answers
from tests import builders as b
from tests.engine import new_store
from tests.memory_cloud import MemoryCloud
from tests.peer_plugin import Backend, Kernel, ManualClock, PodCall, serving, until

Work = Callable[[Backend], Awaitable[None]]


def serve(tmp_path: Path, work: Work, cloud: MemoryCloud | None = None, **environ: str) -> None:
    async def main() -> None:
        store = new_store(tmp_path)
        kernel = Kernel(ManualClock(), cooldown_seconds=30)
        socket = tmp_path / "plugin.sock"
        async with (
            asyncio.timeout(20),
            serving(store, cloud or MemoryCloud(), socket, kernel, **environ) as backend,
        ):
            await work(backend)
        store.close()

    asyncio.run(main())


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def test_an_add_answers_every_field_of_an_ordinary_pod(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        reply = await backend.stub.AddNetwork(PodCall("c1").add())
        held = backend.engine.keeper.ledger.allocations[b.key("c1")]
        assert reply == pb.AddNetworkReply(
            Success=True,
            IPAllocationMetadata=[
                pb.IPAllocationMetadata(IPv4Addr=str(held.address), RouteTableId=254)  # type: ignore[list-item]
            ],
            UseExternalSNAT=False,
            VPCv4CIDRs=["10.0.0.0/16"],
        )

    serve(tmp_path, work)


def test_a_pod_on_a_secondary_eni_gets_its_device_and_table(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        for number in range(9):
            await backend.plugin.add(PodCall(f"c{number}"))
        reply = await backend.stub.AddNetwork(PodCall("c9").add())
        (metadata,) = reply.IPAllocationMetadata
        assert (metadata.DeviceNumber, metadata.RouteTableId) == (1, 2)

    serve(tmp_path, work)


def test_an_ipv6_node_answers_ipv6_and_the_vpc_s_ipv6_networks(tmp_path: Path) -> None:
    cloud = MemoryCloud(cidr_v6=IPv6Network("2001:db8::/64"))

    async def work(backend: Backend) -> None:
        facts = backend.engine.reconciler.facts_needed
        await backend.plugin.stub.AddNetwork(PodCall("c0").add())
        backend.engine.reconciler.facts = replace(
            facts(), vpc_cidrs=(IPv4Network("10.0.0.0/16"), IPv6Network("2001:db8::/56"))
        )
        reply = await backend.stub.AddNetwork(PodCall("c1").add())
        (metadata,) = reply.IPAllocationMetadata
        assert ip_address(metadata.IPv6Addr) in IPv6Network("2001:db8::/64")
        assert metadata.IPv4Addr == ""
        assert list(reply.VPCv6CIDRs) == ["2001:db8::/56"]
        assert list(reply.VPCv4CIDRs) == []

    serve(
        tmp_path,
        work,
        cloud,
        ENABLE_IPv4="false",
        ENABLE_IPv6="true",
        ENABLE_PREFIX_DELEGATION="true",
        WARM_PREFIX_TARGET="1",
    )


@pytest.mark.parametrize("version", ["", "v1.11.0", "v9", "dev-dirty"])
def test_any_client_version_is_served(tmp_path: Path, version: str) -> None:
    async def work(backend: Backend) -> None:
        request = PodCall("c1").add()
        request.ClientVersion = version
        assert (await backend.stub.AddNetwork(request)).Success

    serve(tmp_path, work)


@pytest.mark.parametrize(
    ("field", "value"),
    [("ContainerID", ""), ("IfName", ""), ("NetworkName", ""), ("ContainerID", "../c")],
)
def test_a_call_without_a_usable_name_is_no_success_and_changes_nothing(
    tmp_path: Path, field: str, value: str
) -> None:
    async def work(backend: Backend) -> None:
        await backend.plugin.add(PodCall("c0"))
        before = backend.engine.keeper.ledger
        add, delete = PodCall("c1").add(), PodCall("c1").delete()
        setattr(add, field, value)
        setattr(delete, field, value)
        assert await backend.stub.AddNetwork(add) == pb.AddNetworkReply()
        assert await backend.stub.DelNetwork(delete) == pb.DelNetworkReply()
        assert backend.engine.keeper.ledger.allocations == before.allocations

    serve(tmp_path, work)


def test_a_pod_of_a_name_longer_than_any_is_no_success(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        request = PodCall("c1").add()
        request.K8S_POD_NAME = "x" * 1025
        assert await backend.stub.AddNetwork(request) == pb.AddNetworkReply()
        assert not backend.engine.keeper.ledger.allocations

    serve(tmp_path, work)


def test_a_repeated_add_answers_the_same_address(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        first = await backend.stub.AddNetwork(PodCall("c1").add())
        assert await backend.stub.AddNetwork(PodCall("c1").add()) == first
        assert len(backend.engine.keeper.ledger.allocations) == 1

    serve(tmp_path, work)


def test_the_attachment_is_marked_as_wired_by_the_peer_wherever_it_is_told(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        await backend.plugin.add(PodCall("c1"))
        ledger = backend.engine.keeper.ledger
        (held,) = ledger.allocations.values()
        assert held.wired_by is WiredBy.PEER
        assert held.network_name == "aws-cni"
        assert (held.pod_namespace, held.pod_name) == ("default", "pod-c1")
        message = allocation_message(ledger, held)
        assert message.wired_by == "peer"
        assert message.key == ipam_pb2.AttachmentKey(container_id="c1", ifname="eth0")

    serve(tmp_path, work)


def test_an_attachment_of_vpc_cni_is_not_given_away_under_its_key(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        await backend.engine.add("c1")
        code, said = await refused(backend.stub.AddNetwork(PodCall("c1").add()))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "c1/eth0 already holds" in said

    serve(tmp_path, work)


def test_a_delete_answers_the_addresses_and_starts_their_cooldown(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        added = await backend.stub.AddNetwork(PodCall("c1").add())
        deleted = await backend.stub.DelNetwork(PodCall("c1").delete())
        assert deleted == pb.DelNetworkReply(
            Success=True, IPAllocationMetadata=added.IPAllocationMetadata
        )
        assert backend.engine.count(AddressState.COOLING) == 1

    serve(tmp_path, work)


def test_a_repeated_delete_answers_the_same_until_the_address_has_cooled(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        await backend.plugin.add(PodCall("c1"))
        first = await backend.stub.DelNetwork(PodCall("c1").delete())
        await backend.pass_time(29)
        assert await backend.stub.DelNetwork(PodCall("c1").delete()) == first
        await backend.pass_time(29)  # the repeat began it anew
        assert await backend.stub.DelNetwork(PodCall("c1").delete()) == first
        await backend.pass_time(31)
        code, said = await refused(backend.stub.DelNetwork(PodCall("c1").delete()))
        assert code is grpc.StatusCode.UNKNOWN
        assert "datastore: unknown pod" in said

    serve(tmp_path, work)


def test_a_late_delete_does_not_name_what_another_pod_has_or_had_since(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        (address,) = await backend.plugin.add(PodCall("old"))
        await backend.plugin.delete(PodCall("old"))
        await backend.pass_time(31)
        pods = [PodCall(f"new{number}") for number in range(9)]
        given = {(await backend.plugin.add(pod))[0]: pod for pod in pods}
        assert await backend.plugin.delete(PodCall("old")) == ()
        await backend.plugin.delete(given[address])  # it cools for the second pod now
        assert await backend.plugin.delete(PodCall("old")) == ()
        assert await backend.plugin.delete(PodCall("old")) == ()
        assert backend.engine.keeper.ledger.tombstones[b.key("old")].addresses == ()

    serve(tmp_path, work)


def test_a_delete_of_a_pod_nobody_knows_refuses_an_add_that_is_under_way(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        for number in range(2):
            await backend.plugin.add(PodCall(f"c{number}"))
        waiting = asyncio.ensure_future(backend.stub.AddNetwork(PodCall("late").add()))
        await until(lambda: backend.engine.allocations.waiting == 1)
        await backend.plugin.delete(PodCall("late"))
        code, _ = await refused(waiting)
        assert code is grpc.StatusCode.ABORTED

    cloud = MemoryCloud(max_enis=1, addresses_per_eni=3)
    serve(tmp_path, work, cloud)


def test_a_shortage_ends_in_an_error_that_says_why(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        for number in range(2):
            await backend.plugin.add(PodCall(f"c{number}"))
        call = backend.stub.AddNetwork(PodCall("c9").add(), timeout=1.2)
        code, said = await refused(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "no address became available in 0.2 s" in said

    serve(tmp_path, work, MemoryCloud(max_enis=1, addresses_per_eni=3))


TWO_CARDS = {"ENABLE_MULTI_NIC": "true"}


def two_cards() -> MemoryCloud:
    return MemoryCloud(max_enis=2, addresses_per_eni=3, card_enis=(2, 1))


def test_a_multi_nic_pod_gets_one_address_of_each_card_and_gives_all_back(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        pod = PodCall("c1", is_multi_nic=True)
        reply = await backend.stub.AddNetwork(pod.add())
        cards = [m.RouteTableId for m in reply.IPAllocationMetadata]
        assert len(cards) == 2
        assert cards[0] == 254
        assert cards[1] > 10000
        keys = sorted(str(k) for k in backend.engine.keeper.ledger.allocations)
        assert keys == ["c1/eth0", "c1/mNicIf1"]
        first = await backend.stub.DelNetwork(pod.delete())
        assert list(first.IPAllocationMetadata) == list(reply.IPAllocationMetadata)
        assert await backend.stub.DelNetwork(pod.delete()) == first
        assert not backend.engine.keeper.ledger.allocations

    serve(tmp_path, work, two_cards(), **TWO_CARDS)


def test_a_multi_nic_pod_that_one_card_cannot_serve_holds_nothing(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        for number in range(2):  # both addresses of card 1
            await backend.plugin.add(PodCall(f"m{number}", is_multi_nic=True))
        before = set(backend.engine.keeper.ledger.allocations)
        request = PodCall("c9", is_multi_nic=True).add()
        code, _ = await refused(backend.stub.AddNetwork(request, timeout=1.2))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert set(backend.engine.keeper.ledger.allocations) == before

    serve(tmp_path, work, two_cards(), **TWO_CARDS)


def test_a_multi_nic_pod_does_not_take_card_0_s_address_from_another_card(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        for number in range(4):  # all of card 0
            await backend.plugin.add(PodCall(f"c{number}"))
        request = PodCall("c9", is_multi_nic=True).add()
        code, said = await refused(backend.stub.AddNetwork(request, timeout=1.5))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "network card 0" in said or "no address" in said
        assert len(backend.engine.keeper.ledger.allocations) == 4

    serve(tmp_path, work, two_cards(), **TWO_CARDS, VPC_IPAMD_MAX_PODS="20")


def test_without_multi_nic_a_pod_that_asks_for_it_gets_one_interface(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        reply = await backend.stub.AddNetwork(PodCall("c1", is_multi_nic=True).add())
        assert len(reply.IPAllocationMetadata) == 1

    serve(tmp_path, work, two_cards())


@pytest.mark.parametrize("service", ["", "grpc.health.v1.aws-node", "rpc.CNIBackend"])
def test_health_says_serving_to_the_probe_of_the_usual_manifest(
    tmp_path: Path, service: str
) -> None:
    async def work(backend: Backend) -> None:
        stub = health_pb2_grpc.HealthStub(backend.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    serve(tmp_path, work)


def test_the_socket_is_root_s_alone_and_a_second_daemon_does_not_take_it(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        socket = tmp_path / "plugin.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert answers(socket)
        store = new_store(tmp_path, "second.db")
        kernel = Kernel(ManualClock(), cooldown_seconds=30)
        with pytest.raises(SettingsError, match="a process listens on it"):
            async with serving(store, MemoryCloud(), socket, kernel):
                pass
        store.close()
        assert answers(socket)

    serve(tmp_path, work)


def test_with_security_groups_for_pods_the_plugin_gets_no_address(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        reply = await backend.stub.AddNetwork(PodCall("c1").add())
        assert not reply.Success
        assert not backend.engine.keeper.ledger.allocations

    serve(tmp_path, work, ENABLE_POD_ENI="true")


def test_the_plugin_and_the_policy_agent_are_told_the_mode(tmp_path: Path) -> None:
    async def work(backend: Backend) -> None:
        agent = pb_grpc.ConfigServerBackendStub(backend.channel)
        config = await agent.GetNetworkPolicyConfigs(empty_pb2.Empty())
        added = await backend.stub.AddNetwork(PodCall("c1").add())
        deleted = await backend.stub.DelNetwork(PodCall("c1").delete())
        assert (config.NetworkPolicyMode, config.MultiNICEnabled) == ("strict", False)
        assert (config.NodeIPv4, config.InstanceID) != ("", "")
        assert {added.NetworkPolicyMode, deleted.NetworkPolicyMode} == {"strict"}

    serve(tmp_path, work, NETWORK_POLICY_ENFORCING_MODE="strict")
