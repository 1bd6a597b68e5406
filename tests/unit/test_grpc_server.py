"""The gRPC door over a real unix socket: status codes, details, the watch, the report."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

from ipamd import clock, grpc_server
from ipamd.metrics import Metrics
from ipamd.model import AddressState
from ipamd.pool.ledger import Change
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

Work = Callable[["Door"], Awaitable[None]]


class Door:
    """A client of an engine behind its gRPC server."""

    def __init__(self, engine: Engine, channel: grpc.aio.Channel, socket: Path) -> None:
        self.engine = engine
        self.channel = channel
        self.stub = pb_grpc.IpamStub(channel)
        self.socket = socket

    async def allocate(self, name: str = "c1", *, cookie: int = 7, **more: object) -> object:
        request = pb.AllocateRequest(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            network_name="net",
            attempt_id="0123456789abcdef",
            netns_cookie=cookie,
            wait_seconds=5.0,
            began_boottime=clock.boottime(),
        )
        for field, value in more.items():
            setattr(request, field, value)
        return await self.stub.Allocate(request)

    async def refused(self, call: Awaitable[object]) -> tuple[grpc.StatusCode, pb.ErrorDetail]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        trailing = dict(caught.value.trailing_metadata() or ())
        detail = pb.ErrorDetail.FromString(trailing["ipam-error-bin"])
        return caught.value.code(), detail


def serve(tmp_path: Path, work: Work, cloud: MemoryCloud | None = None, **environ: str) -> None:
    async def main() -> None:
        store = new_store(tmp_path)
        engine = Engine(store, AsyncMemoryCloud(cloud or MemoryCloud(), delay_seconds=0), **environ)
        servicer = grpc_server.IpamServicer(
            engine.keeper, engine.allocations, engine.reconciler, Metrics()
        )
        socket = tmp_path / "ipamd.sock"
        server = await grpc_server.start(servicer, socket)
        try:
            async with running(engine), grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                async with asyncio.timeout(20):
                    await work(Door(engine, channel, socket))
        finally:
            await server.stop(0)
            store.close()

    asyncio.run(main())


KEY = pb.AttachmentKey(container_id="c1", ifname="eth0")


def test_allocate_get_list_release_get(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        reply = await door.allocate()
        assert isinstance(reply, pb.AllocateReply)
        assert reply.allocation.gateway == "10.0.0.1"
        assert reply.allocation.route_table_id == 254
        assert await door.stub.Get(pb.GetRequest(key=KEY)) == reply.allocation
        listed = await door.stub.List(pb.ListRequest())
        assert list(listed.allocations) == [reply.allocation]
        released = await door.stub.Release(pb.ReleaseRequest(key=KEY))
        assert released.outcome == pb.ReleaseReply.RELEASED
        assert released.address == reply.allocation.address
        code, detail = await door.refused(door.stub.Get(pb.GetRequest(key=KEY)))
        assert code is grpc.StatusCode.NOT_FOUND
        assert detail.reason == pb.ErrorDetail.UNKNOWN_ATTACHMENT

    serve(tmp_path, work)


def test_a_repeat_says_that_it_is_one(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        first, second = await door.allocate(), await door.allocate()
        assert isinstance(first, pb.AllocateReply)
        assert isinstance(second, pb.AllocateReply)
        assert (first.is_repeat, second.is_repeat) == (False, True)
        assert first.allocation == second.allocation

    serve(tmp_path, work)


def test_an_attachment_of_a_main_plugin_says_so_wherever_it_is_told(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        reply = await door.allocate(is_ipam_only=True, eni="primary")
        assert isinstance(reply, pb.AllocateReply)
        assert (reply.allocation.wired_by, reply.allocation.device_index) == ("main-plugin", 0)
        listed = await door.stub.List(pb.ListRequest())
        assert list(listed.allocations) == [reply.allocation]

    serve(tmp_path, work)


def test_an_eni_that_the_node_has_not_is_a_bad_request(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        code, detail = await door.refused(door.allocate(eni="eni-elsewhere"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert detail.reason == pb.ErrorDetail.BAD_REQUEST
        assert "'eni-elsewhere' is not one of this node" in detail.message

    serve(tmp_path, work)


def test_another_namespace_is_a_conflict(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate(cookie=7)
        code, detail = await door.refused(door.allocate(cookie=8))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert detail.reason == pb.ErrorDetail.ATTACHMENT_CONFLICT

    serve(tmp_path, work)


def test_a_full_subnet_is_named_in_the_detail(tmp_path: Path) -> None:
    memory = MemoryCloud()
    memory.free.clear()

    async def work(door: Door) -> None:
        code, detail = await door.refused(door.allocate(wait_seconds=0.5))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail.reason == pb.ErrorDetail.NO_ADDRESS
        assert detail.subnet_id == "subnet-01"
        assert detail.retry_after_seconds >= 1.0

    serve(tmp_path, work, memory)


def test_an_older_attempt_is_revoked(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        began = clock.boottime()
        await door.stub.Release(pb.ReleaseRequest(key=KEY))
        code, detail = await door.refused(door.allocate(began_boottime=began))
        assert code is grpc.StatusCode.ABORTED
        assert detail.reason == pb.ErrorDetail.ATTEMPT_REVOKED

    serve(tmp_path, work)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("attempt_id", "zz", "attempt_id 'zz'"),
        ("attempt_id", "", "attempt_id ''"),
        ("netns_cookie", 0, "netns_cookie is missing"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    async def work(door: Door) -> None:
        code, detail = await door.refused(door.allocate(**{field: value}))  # type: ignore[arg-type]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert detail.reason == pb.ErrorDetail.BAD_REQUEST
        assert said in detail.message

    serve(tmp_path, work)


@pytest.mark.parametrize("name", ["", "../etc", "a b", "x" * 300, "-c"])
def test_a_container_id_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    async def work(door: Door) -> None:
        code, _ = await door.refused(door.allocate(name))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    serve(tmp_path, work)


def test_the_watch_is_silent_until_the_network_is_known_and_complete_then(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        watch = door.stub.WatchNode(pb.WatchNodeRequest())
        first = await watch.read()
        assert [e.is_primary for e in first.enis] == [True]
        assert list(first.vpc_cidrs) == ["10.0.0.0/16"]
        assert first.epoch == door.engine.keeper.ledger.epoch
        while len(first.enis) < 2:  # nine pods fill the primary, so that another ENI comes
            number = len(door.engine.keeper.ledger.allocations)
            await door.allocate(f"c{number}")
            if number >= 8:
                first = await watch.read()
        assert [e.route_table_id for e in first.enis][:2] == [254, 2]

    serve(tmp_path, work, WARM_ENI_TARGET="1")


def test_the_watch_tells_the_policy_of_the_settings(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        first = await door.stub.WatchNode(pb.WatchNodeRequest()).read()
        assert first.policy.external_snat
        assert list(first.policy.external_service_cidrs) == ["10.9.0.0/16"]

    serve(
        tmp_path,
        work,
        AWS_VPC_K8S_CNI_EXTERNALSNAT="true",
        AWS_EXTERNAL_SERVICE_CIDRS="10.9.0.0/16",
    )


def test_a_trunk_eni_is_told_only_where_pods_may_have_branch_enis(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        keeper, reconciler = door.engine.keeper, door.engine.reconciler
        trunk = replace(b.eni("eni-0t", index=4), interface_type="trunk", is_managed=False)
        keeper.commit(Change(put_enis=(trunk,)))
        watch = door.stub.WatchNode(pb.WatchNodeRequest())
        assert [e.is_trunk for e in (await watch.read()).enis if e.eni_id == "eni-0t"] == []
        reconciler._config.settings = replace(reconciler.settings, has_pod_eni=True)
        watch = door.stub.WatchNode(pb.WatchNodeRequest())
        assert [e.is_trunk for e in (await watch.read()).enis if e.eni_id == "eni-0t"] == [True]

    serve(tmp_path, work)


async def released(door: Door) -> pb.CooledAddress:
    """One pod came and went; its cooldown."""
    reply = await door.allocate()
    assert isinstance(reply, pb.AllocateReply)
    await door.stub.Release(pb.ReleaseRequest(key=KEY))
    held = door.engine.keeper.ledger.addresses[ip_address(reply.allocation.address)]
    return pb.CooledAddress(address=reply.allocation.address, since_boottime=held.since_boottime)


def test_a_cooldown_ends_when_the_node_says_that_it_cleared_the_address(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        door.engine.can_flush = False
        cooled = await released(door)
        watch = door.stub.WatchNode(pb.WatchNodeRequest())
        while not (network := await watch.read()).flushes:
            pass
        assert list(network.flushes) == [cooled]
        await asyncio.sleep(0.1)
        assert door.engine.count(AddressState.COOLING) == 1
        request = pb.ReportFlushedRequest(epoch=network.epoch, addresses=network.flushes)
        assert (await door.stub.ReportFlushed(request)).is_accepted
        while door.engine.count(AddressState.COOLING):  # noqa: ASYNC110 - a real loop
            await asyncio.sleep(0.001)

    serve(tmp_path, work, IP_COOLDOWN_PERIOD="0")


@pytest.mark.parametrize("what", ["epoch", "since", "address"])
def test_a_report_of_another_cooldown_ends_none(tmp_path: Path, what: str) -> None:
    async def work(door: Door) -> None:
        door.engine.can_flush = False
        cooled = await released(door)
        watch = door.stub.WatchNode(pb.WatchNodeRequest())
        while not (network := await watch.read()).flushes:
            pass
        other = pb.CooledAddress(
            address="10.0.0.99" if what == "address" else cooled.address,
            since_boottime=cooled.since_boottime - (what == "since"),
        )
        epoch = "other" if what == "epoch" else network.epoch
        request = pb.ReportFlushedRequest(epoch=epoch, addresses=[other])
        assert (await door.stub.ReportFlushed(request)).is_accepted is (what != "epoch")
        await asyncio.sleep(0.1)
        assert door.engine.count(AddressState.COOLING) == 1

    serve(tmp_path, work, IP_COOLDOWN_PERIOD="0")


def test_a_flush_report_with_nonsense_is_refused(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        epoch = door.engine.keeper.ledger.epoch
        request = pb.ReportFlushedRequest(epoch=epoch, addresses=[pb.CooledAddress(address="x")])
        code, _ = await door.refused(door.stub.ReportFlushed(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    serve(tmp_path, work)


def test_a_report_of_another_epoch_is_not_accepted(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        reply = await door.stub.ReportNode(pb.ReportNodeRequest(epoch="other"))
        assert not reply.is_accepted

    serve(tmp_path, work)


def test_a_report_names_what_the_ledger_does_not_explain(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        request = pb.ReportNodeRequest(
            epoch=door.engine.keeper.ledger.epoch,
            addresses=[pb.ObservedAddress(address="10.0.0.99", link_name="eniX")],
        )
        reply = await door.stub.ReportNode(request)
        assert reply.is_accepted
        assert list(reply.unknown_addresses) == ["10.0.0.99"]

    serve(tmp_path, work)


def test_a_report_with_nonsense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        before = door.engine.keeper.ledger
        request = pb.ReportNodeRequest(
            epoch=before.epoch, addresses=[pb.ObservedAddress(address="ten dot one")]
        )
        code, _ = await door.refused(door.stub.ReportNode(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert door.engine.keeper.ledger.allocations == before.allocations

    serve(tmp_path, work)


def test_the_status_adds_up(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        status = await door.stub.GetStatus(pb.GetStatusRequest())
        assert status.pool["allocated"] == 1
        assert sum(status.pool.values()) == len(status.addresses)
        assert status.instance_id == "i-01"
        assert status.max_pods == 27
        assert status.subnets[0].subnet_id == "subnet-01"

    serve(tmp_path, work)


def test_the_notes_of_the_last_report_are_in_the_status_and_no_problem(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        await door.allocate()
        for notes, told in (
            (["one pod cannot be seen"], ["one pod cannot be seen"]),
            (["x" * 5000] * 99, ["x" * 1024] * 16),
            ([], []),
        ):
            report = pb.ReportNodeRequest(epoch=door.engine.keeper.ledger.epoch, notes=notes)
            assert (await door.stub.ReportNode(report)).is_accepted
            status = await door.stub.GetStatus(pb.GetStatusRequest())
            assert list(status.notes) == told
            assert not status.problems

    serve(tmp_path, work)


def test_the_socket_is_closed_to_others(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        assert stat.S_IMODE(door.socket.stat().st_mode) == 0o660

    serve(tmp_path, work)


def test_health_says_serving(tmp_path: Path) -> None:
    async def work(door: Door) -> None:
        stub = health_pb2_grpc.HealthStub(door.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    serve(tmp_path, work)
