"""The composition root of ipamd: settings, store, loop, servers, signals, exit status.

Exit status: 0 after SIGTERM, 1 when the daemon failed (the supervisor restarts it: recovery is the
normal start path), 2 when a setting or the place of the store cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from typing import Never

import structlog
from ipam_api.v1 import door

from ipamd import clock, grpc_server, migration
from ipamd.actions import REPEAT_SECONDS
from ipamd.allocations import Allocations
from ipamd.arrivals import ArrivalLog
from ipamd.cloud_child import CloudChild
from ipamd.errors import Corrupt, ForeignStore, SettingsError, StoreError, UnknownVersion
from ipamd.http_server import HttpServer, enis_page
from ipamd.keeper import Keeper
from ipamd.live_config import LiveConfig
from ipamd.log import configure
from ipamd.metrics import LedgerCollector, Metrics
from ipamd.migration_leaks import Leaks
from ipamd.orphan_cleaner import OrphanCleaner
from ipamd.peer_socket import refuse_beside_peer
from ipamd.reconciler import Reconciler
from ipamd.run_lock import only_one
from ipamd.settings import Settings, load
from ipamd.store import Store, set_aside
from ipamd.verb_door import VerbDoor

log = structlog.get_logger()

SWITCH_INTERVAL_SECONDS = 50e-6
"""A thread that computes delays each hand-over by this much; the default 5 ms makes an Allocate
several times slower while metrics are rendered."""

STOP_GRACE_SECONDS = 2.0

APPLY_SECONDS = {"azure": REPEAT_SECONDS}
"""How long a change of addresses may take, by cloud, where that is not as long as any call. Azure's
ends when pods can use what was added, for which a scale set takes tens of seconds to minutes, after
its turn in the node's bucket of writes."""


class Stopped(Exception):
    """SIGTERM or SIGINT arrived."""


def main() -> None:
    """The `ipamd` program."""
    options = _options()
    try:
        loaded = load(os.environ)
    except SettingsError as e:
        sys.stderr.write(f"ipamd: {e}\n")
        raise SystemExit(2) from None
    if options.print_config:
        # Late, because the daemon never needs it.
        from ipamd.cli.print_config import page

        sys.stdout.write(page(loaded, options.output))
        return
    configure(loaded.settings.log_level, process="ipamd")
    for warning in loaded.warnings:
        log.warning("setting_ignored", warning=warning)
    for note in loaded.notes:
        log.info("setting_noted", note=note)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        with only_one(loaded.settings.run_dir):
            refuse_beside_peer(loaded.settings.peer_socket)
            asyncio.run(run(loaded.settings))
    except (SettingsError, StoreError) as e:
        log.error("start_failed", error=str(e))
        raise SystemExit(2) from None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ipamd",
        description="The VPC IPAM daemon of one node.",
        epilog="Settings are environment variables (docs/settings.md). Exit status: 0 after "
        "SIGTERM, 1 when it failed, 2 when a setting or the place of the store cannot be used.",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="show each setting's value and origin, and end",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="form of --print-config (default: %(default)s)",
    )
    return parser.parse_args()


def open_store(settings: Settings) -> Store:
    """The store of this boot, or a new one where it is absent or unusable. Raises StoreError."""
    path = settings.store_dir / "ipamd.db"
    boot_id = clock.boot_id()
    try:
        settings.store_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot make VPC_IPAMD_STORE_DIR {settings.store_dir}: {e}") from e
    if path.exists():
        store = None
        try:
            store = Store.open(path, boot_id=boot_id)
            store.load()
        except (Corrupt, UnknownVersion, ForeignStore) as e:
            # Not for a plain StoreError: on a full disk the store is as good as ever.
            if store is not None:
                store.close()
            log.error("store_set_aside", error=str(e), path=str(path))
        else:
            return store
    return Store.create(path, boot_id=boot_id)


def _ready_store(settings: Settings) -> Store:
    """The store to serve from, with what aws-node's agent gave out before. Raises StoreError."""
    store = open_store(settings)
    try:
        return migration.take_over(store, settings.peer_checkpoint, boot_id=clock.boot_id())
    except StoreError:
        store.close()
        raise


async def run(settings: Settings) -> None:
    """Run until SIGTERM. What ends otherwise ends the process with an error."""
    store = _ready_store(settings)
    cloud = CloudChild(
        settings.cloud,
        call_seconds=settings.api_timeout_seconds * 3,
        apply_seconds=APPLY_SECONDS.get(settings.cloud),
    )
    foreign: ForeignStore | None = None
    try:
        await _serve(settings, store, cloud)
    except* Stopped:
        log.info("stopped")
    except* ForeignStore as group:
        foreign = ForeignStore(str(_leaf(group)))
    finally:
        cloud.close()
        store.close()
    if foreign is not None:
        # The next start finds no store and begins a new one, which waits for the kernel's report.
        set_aside(store.path)
        raise foreign


def _leaf(error: BaseException) -> BaseException:
    """The first real error in a nest of task groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve(settings: Settings, store: Store, cloud: CloudChild) -> None:
    stop = _stop_event()
    metrics = Metrics()
    cloud.on_api_call = metrics.api_called
    keeper = Keeper(store)
    reconciler, allocations = _engine(settings, keeper, cloud, metrics)
    servicer = grpc_server.IpamServicer(keeper, allocations, reconciler, metrics, Leaks(keeper))
    cleaner = OrphanCleaner(
        keeper,
        cloud,
        metrics,
        is_cleaner=lambda: settings.cleans_orphans,
        instance_id=lambda: reconciler.facts.identity.instance_id if reconciler.facts else None,
    )
    metrics.registry.register(
        LedgerCollector(lambda: keeper.ledger, reconciler.limits, lambda: allocations.waiting)
    )
    listeners = _http_servers(settings, keeper, metrics)
    servers = [await grpc_server.start(servicer, settings.run_dir / "ipamd.sock")]
    if settings.cni_backend_socket is not None:
        from ipamd import cni_backend  # 1.3 MB that most nodes do not need

        backend = cni_backend.CniBackend(keeper, allocations, reconciler, metrics, settings)
        servers.append(await cni_backend.start(backend, settings.cni_backend_socket))
    _spare_the_collector()
    verb_door = VerbDoor(servicer.handlers, servicer.node)
    await verb_door.start(settings.run_dir / door.SOCKET_NAME)
    log.info(
        "serving",
        epoch=keeper.ledger.epoch,
        allocations=len(keeper.ledger.allocations),
        has_heard_node=keeper.ledger.has_heard_node,
        store=str(store.path),
    )
    try:
        for listener in listeners:
            listener.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(_until(stop), name="signals")
            group.create_task(_eternal(reconciler), name="reconciler")
            group.create_task(_eternal(cleaner), name="orphan_cleaner")
    finally:
        verb_door.close()
        await asyncio.gather(*(server.stop(STOP_GRACE_SECONDS) for server in servers))
        for listener in listeners:
            listener.close()


def _engine(
    settings: Settings, keeper: Keeper, cloud: CloudChild, metrics: Metrics
) -> tuple[Reconciler, Allocations]:
    """Who keeps the pool, and who hands out of it."""
    config = LiveConfig(settings)
    arrivals = ArrivalLog()
    reconciler = Reconciler(
        keeper,
        cloud,
        config,
        metrics,
        waiting=lambda: allocations.waiting,
        pinned=lambda: allocations.pinned,
        arrivals=arrivals,
    )
    allocations = Allocations(
        keeper,
        rules=reconciler.rules,
        explain=reconciler.shortage,
        wake=reconciler.wake,
        arrivals=arrivals,
    )
    return reconciler, allocations


def _spare_the_collector() -> None:
    """What is here now stays; to look at it all takes the collector 6-14 ms, amid an ADD."""
    gc.collect()
    gc.freeze()


def _http_servers(settings: Settings, keeper: Keeper, metrics: Metrics) -> list[HttpServer]:
    def metrics_page() -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", metrics.text()

    def health_page() -> tuple[str, bytes]:
        return "text/plain", b"ok\n"

    public = f"0.0.0.0:{settings.metrics_port}" if settings.metrics_port else ""
    return [
        HttpServer(public, {"/metrics": metrics_page, "/healthz": health_page}),
        HttpServer(
            settings.introspection_address,
            {
                "/v1/enis": enis_page(lambda: keeper.ledger),
                "/metrics": metrics_page,
                "/healthz": health_page,
            },
        ),
    ]


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on: a signal during the start ends us as any other."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event) -> Never:
    await stop.wait()
    raise Stopped


async def _eternal(child: Reconciler | OrphanCleaner) -> Never:
    """A child that returns is a fault like one that raises (a TaskGroup would not notice)."""
    await child.run()
    raise AssertionError(f"{type(child).__name__} returned")


if __name__ == "__main__":
    main()
