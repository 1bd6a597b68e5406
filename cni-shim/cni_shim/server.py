"""vpc-cnid, the process: its start, its threads, its end. What a request gets is in `serving`.

Exit status: 0 after SIGTERM, 1 when a thread of it failed (the supervisor restarts it), 2 when a
setting, the run directory or the kernel cannot be used.

Start, in this order: the delete queue is locked and drained, the socket listens, the lock is let
go; so every DEL finds either a listener or a queue that will still be read.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import structlog

from cni_shim import lean, settings
from cni_shim.accepting import Accepting
from cni_shim.crew import Crew
from cni_shim.datapath.conntrack import Conntrack
from cni_shim.datapath.delegated_pods import DelegatedPods
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.firewall_notices import FirewallNotices
from cni_shim.datapath.host import HostDatapath
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.pods import PodDatapath
from cni_shim.delete_queue import DeleteQueue, QueueError
from cni_shim.descriptors import allow_descriptors
from cni_shim.flusher import Flusher
from cni_shim.hangups import Hangups
from cni_shim.heartbeat import Heartbeat, seen_at
from cni_shim.ipam_client import IpamClient, IpamdError
from cni_shim.late_snat import LateSnat
from cni_shim.leak_watch import LeakWatch
from cni_shim.leaks import USUAL, Waits
from cni_shim.log import configure
from cni_shim.namespaces import NamespaceReading
from cni_shim.node_watch import NodeWatch
from cni_shim.own_enis import Lookup, OwnEnis
from cni_shim.pod_mtu import PodMtu
from cni_shim.policy_agent import PolicyAgent
from cni_shim.queue_worker import QueueWorker
from cni_shim.runtime_list import RuntimeList
from cni_shim.serving import Server
from cni_shim.settings import Settings, SettingsError
from cni_shim.settled_host import SettledHost
from cni_shim.status import Silence
from cni_shim.take_over import TakeOver
from cni_shim.verbs import Verbs
from cni_shim.wanted import WantedNetwork
from cni_shim.witnesses import Witnesses

log = structlog.get_logger()

FIRST_WORKERS, WORKERS = 8, 192
"""Threads that serve a request each: at the start, and at most. The most is more than the pods that
a usual node can start at once."""

SWITCH_INTERVAL_SECONDS = 50e-6
"""As in ipamd: a decoding thread must not delay a verb by the default 5 ms per hand-over."""

STOP_SECONDS = 5.0


class Daemon:
    """The threads of one vpc-cnid, from `start` until `wait` returns the exit status."""

    def __init__(self, wanted: Settings, *, waits: Waits = USUAL) -> None:
        """`waits` are those of the search for lost DELs."""
        self._settings = wanted
        self._is_stopping = threading.Event()
        self._exit_status = 0
        self._netlink = HostNetlink()
        self._notices = LinkNotices()
        self._pods = PodDatapath(self._netlink, self._notices, mode=wanted.routing_rules)
        self._silence = Silence(seen_at=seen_at(wanted.run_dir))
        self._delegates = DelegatedPods(self._netlink)
        self._ipam = IpamClient(wanted.ipamd_socket, self._silence)
        self._queue = DeleteQueue(wanted.run_dir)
        self._queue_worker = QueueWorker(self._queue)
        self._wanted = WantedNetwork()
        self._pod_mtu = PodMtu(wanted.eni_mtu)
        self._policies = PolicyAgent(wanted.policy_agent_socket, self._wanted)
        self._verbs = Verbs(
            self._ipam,
            self._pods,
            delegates=self._delegates,
            queue_release=self._queue_worker.put,
            finish_queued=self._queue_worker.finish,
            living=self._living,
            policies=self._policies,
            own_enis=OwnEnis(self._wanted, _pod_lookup),
            wanted=self._wanted,
            pod_mtu=self._pod_mtu,
        )
        self._queue_worker.serve(self._verbs)
        self._pods.ask_ledger(self._verbs.unheld)
        self._late_snat = LateSnat(Conntrack())
        host = HostDatapath(self._netlink, firewall_changed=self._late_snat.firewall_changed)
        self._settled = SettledHost(
            host,
            self._pods,
            self._verbs.held,
            TakeOver(),
        )
        self._watch = NodeWatch(
            self._ipam,
            self._settled,
            self._pods,
            self._verbs,
            mend=self._mend,
            beat=Heartbeat(wanted.run_dir, is_answered=lambda: self._silence.since is None).beat,
            notes=lambda: self._leaks.notes,
            strays=lambda: host.strays,
            pod_mtu=self._pod_mtu,
            eni_mtu=wanted.eni_mtu,
        )
        self._firewall_notices = FirewallNotices(self._watch.on_notice)
        self._flusher = Flusher(self._ipam, Conntrack())
        self._leaks = self._leak_watch(waits)
        self._crew = Crew(first=FIRST_WORKERS, most=WORKERS)

    def _leak_watch(self, waits: Waits) -> LeakWatch:
        wanted = self._settings
        return LeakWatch(
            self._ipam,
            self._verbs,
            Witnesses(
                self._netlink,
                self._pods.observe,
                RuntimeList(wanted.cri_sockets),
                netns_directories=wanted.netns_dirs,
                cache_directory=wanted.cni_cache_dir,
            ),
            is_reported=self._watch.has_reported,
            is_queued=self._queue_worker.waits_for,
            waits=waits,
            may_release=wanted.lost_dels == "release",
        )

    def start(self) -> None:
        """Drain the queue, listen, and start every thread."""
        self._notices.subscribe(self._settled.on_notice)  # before the watch, which applies it
        self._notices.subscribe(self._watch.on_notice)
        self._notices.start()
        self._firewall_notices.start()
        self._queue.take_lock()
        try:
            self._queue_worker.load()
            self._queue_worker.drain()
            listener = _listen(self._settings)
        finally:
            self._queue.release()
        server = Server(
            self._verbs,
            self._ipam,
            Hangups(),
            silence=self._silence,
            host_problem=lambda: self._watch.host_problem,
        )
        self._thread("watch", self._watch_ipamd)
        self._thread("node", lambda: self._watch.run(self._is_stopping.is_set))
        self._thread("flusher", lambda: self._flusher.run(self._is_stopping.is_set))
        self._thread("late-snat", lambda: self._late_snat.run(self._is_stopping.is_set))
        self._thread("queue", lambda: self._queue_worker.run(self._is_stopping.is_set))
        if self._settings.lost_dels != "off":
            self._thread("leaks", lambda: self._leaks.run(self._is_stopping.is_set))
        accepting = Accepting(listener)

        def hire(number: int) -> None:
            self._thread(f"verb-{number}", lambda: self._accept(accepting, server))

        self._crew.start(hire)
        log.info(
            "serving",
            socket=str(self._settings.cni_socket),
            queued_deletes=self._queue_worker.pending,
        )

    def stop(self, status: int = 0) -> None:
        """Have `wait` return."""
        self._exit_status = max(self._exit_status, status)
        self._is_stopping.set()

    def wait(self) -> int:
        """Block until stopped, give verbs in flight a moment, return the exit status."""
        while not self._is_stopping.wait(timeout=3600):
            pass
        with suppress(OSError):
            self._settings.cni_socket.unlink()  # launchers queue at once, in place of knocking
        if not self._crew.wait_until_idle(timeout_seconds=STOP_SECONDS):
            log.warning("verbs_cut_off")
        return self._exit_status

    def _mend(self) -> None:
        """Put back what stood for pods that no round of the host's network knows."""
        self._delegates.mend()
        self._pods.branches.mend(time.monotonic())

    def _living(self) -> frozenset[int]:
        """Cookies of the network namespaces that can be seen."""
        reading = NamespaceReading(self._netlink.netns_cookie)
        mounted = reading.mounted(self._settings.netns_dirs)
        return mounted.cookies | reading.of_processes(Path("/proc")).cookies

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        """A thread whose end, however it came, ends the daemon."""

        def guarded() -> None:
            try:
                work()
            except Exception:  # logged and turned into a restart: the normal start path recovers
                log.exception("thread_failed", thread=name)
            if not self._is_stopping.is_set():
                self.stop(1)

        threading.Thread(target=guarded, name=name, daemon=True).start()

    def _accept(self, accepting: Accepting, server: Server) -> None:
        """One worker: the kernel wakes one of them per connection, with no hand-over between."""
        while not self._is_stopping.is_set():
            connection = accepting.accept()
            with self._crew.working():
                server.handle(connection)

    def _watch_ipamd(self) -> None:
        """Follow the wanted network for ever; ipamd may come and go."""
        while not self._is_stopping.is_set():
            try:
                self._verbs.recall(deadline_monotonic=time.monotonic() + 3600.0)
                self._flusher.watch_begins()
                for message in self._ipam.watch():
                    network = self._flusher.take(message)
                    if network is not None:
                        self._policies.catch_up(network.policy.network_policy_mode)
                        self._wanted.take(network)
                        self._watch.wanted(network)
            except IpamdError as e:
                log.info("watch_ended", error=str(e))
            time.sleep(0.2)


def _pod_lookup() -> Lookup:
    lean.allow("ssl")
    from cni_shim import kube_pod  # late: TLS and HTTP, which most nodes never need

    return kube_pod.lookup(os.environ)


def _listen(wanted: Settings) -> socket.socket:
    """The frame socket, 0600 from its first instant, in place of what a dead process left."""
    with suppress(FileNotFoundError):
        wanted.cni_socket.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(wanted.cni_socket))
    except OSError as e:
        raise SettingsError(f"cannot listen on {wanted.cni_socket}: {e}") from e
    finally:
        os.umask(before)
    listener.listen(256)
    return listener


def main() -> None:
    """The `vpc-cnid` program."""
    if sys.argv[1:]:
        from cni_shim import commands  # late: the daemon itself never needs them

        raise SystemExit(commands.run(sys.argv[1:], only_one=_only_one))
    try:
        wanted = settings.load(os.environ)
        configure(wanted.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        allow_descriptors()
        _make_run_dir(wanted.run_dir)
        lock = _only_one(wanted)
        daemon = Daemon(wanted)
        # What is here now stays. To look at it all takes the collector 6 ms, amid some pod's ADD.
        gc.collect()
        gc.freeze()
        daemon.start()
    except (SettingsError, QueueError, DatapathError, OSError) as e:
        sys.stderr.write(f"vpc-cnid: {e}\n")
        raise SystemExit(2) from None

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        daemon.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = daemon.wait()
    log.info("stopped", status=status)
    os.close(lock)
    sys.stderr.flush()
    # Threads still in the kernel hold nothing that matters, and must not hold us.
    os._exit(status)


def _make_run_dir(path: Path) -> None:
    """Make it ours alone. Another user's could get sockets and queued DELs of his own."""
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise SettingsError(f"VPC_IPAMD_RUN_DIR {path} belongs to uid {owner}, not to us")
        path.chmod(0o750)  # whoever made it: a hostPath volume is born 0755
    except OSError as e:
        raise SettingsError(f"cannot use VPC_IPAMD_RUN_DIR {path}: {e}") from e


def _only_one(wanted: Settings) -> int:
    """Hold the lock of this node's vpc-cnid, for the life of the process."""
    descriptor = os.open(
        wanted.run_dir / "vpc-cnid.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(f"another vpc-cnid holds {wanted.run_dir / 'vpc-cnid.lock'}") from None
    return descriptor
