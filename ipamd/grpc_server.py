"""The gRPC door: messages to values and back, errors to status codes. No decisions here.

The socket is made with a umask (grpcio creates it 0755 and cannot check peer credentials), in a
directory that only root and one group may enter.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

from ipamd import clock, status
from ipamd.allocations import Allocations
from ipamd.errors import IpamError
from ipamd.handlers import Handlers, describe
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.migration_leaks import Leaks
from ipamd.node_calls import NodeCalls
from ipamd.reconciler import Reconciler

ERROR_METADATA = "ipam-error-bin"

Context = grpc.aio.ServicerContext[object, object]


class IpamServicer(pb_grpc.IpamServicer):
    """The service. One instance, on the event loop."""

    def __init__(
        self,
        keeper: Keeper,
        allocations: Allocations,
        reconciler: Reconciler,
        metrics: Metrics,
        leaks: Leaks | None = None,
    ) -> None:
        self.handlers = Handlers(keeper, allocations, metrics)
        self.node = NodeCalls(keeper, reconciler, leaks)
        self._keeper = keeper
        self._allocations = allocations
        self._reconciler = reconciler

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateReply:
        """See ipam.proto."""
        try:
            return await self.handlers.allocate(request)
        except IpamError as e:
            await abort(context, e)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        """See ipam.proto."""
        try:
            return self.handlers.release(request)
        except IpamError as e:
            await abort(context, e)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Allocation:
        """See ipam.proto."""
        try:
            return self.handlers.get(request)
        except IpamError as e:
            await abort(context, e)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListReply:
        """See ipam.proto."""
        return self.handlers.list()

    async def WatchNode(
        self, request: pb.WatchNodeRequest, context: Context
    ) -> AsyncIterator[pb.NodeNetwork]:
        """See ipam.proto."""
        async with aclosing(self.node.changes()) as changes:
            async for network in changes:
                yield network

    async def ReportNode(
        self, request: pb.ReportNodeRequest, context: Context
    ) -> pb.ReportNodeReply:
        """See ipam.proto."""
        try:
            return self.node.report(request)
        except IpamError as e:
            await abort(context, e)

    async def ReportFlushed(
        self, request: pb.ReportFlushedRequest, context: Context
    ) -> pb.ReportFlushedReply:
        """See ipam.proto."""
        try:
            return self.node.report_flushed(request)
        except IpamError as e:
            await abort(context, e)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.Status:
        """See ipam.proto."""
        return status.build(
            self._keeper.ledger,
            self._reconciler,
            waiting=self._allocations.waiting,
            reports=self.node.reports,
            reported_boottime=self.node.reported_boottime,
            notes=self.node.notes,
            now=clock.boottime(),
        )


async def abort(context: Context, error: IpamError) -> NoReturn:
    """End the call with the status and detail that the table gives for the error's class."""
    code, detail = describe(error)
    await context.abort(code, str(error), ((ERROR_METADATA, detail.SerializeToString()),))
    raise AssertionError("abort returns never")


async def start(servicer: IpamServicer, socket_path: Path) -> grpc.aio.Server:
    """Listen on the unix socket, 0660, replacing what a dead process left there."""
    server = grpc.aio.server()
    pb_grpc.add_IpamServicer_to_server(servicer, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - before anything is served
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{socket_path}")
        await server.start()
    finally:
        os.umask(before)
    serving = health_pb2.HealthCheckResponse.SERVING
    await checks.set("", serving)
    await checks.set("ipam_api.v1.Ipam", serving)
    return server
