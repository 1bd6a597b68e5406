"""vpc-cnid: one request per connection, one worker thread per request.

Exit status: 0 after SIGTERM, 1 when a thread of it failed (the supervisor restarts it), 2 when a
setting, the run directory or the kernel cannot be used.

Start, in this order: the delete queue is locked and drained, the socket listens, the lock is let
go; so every DEL finds either a listener or a queue that will still be read.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

from cni_shim import frames, results, settings, spec
from cni_shim.accepting import Accepting
from cni_shim.attempt import Attempt
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.host import HostDatapath
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.pods import PodDatapath
from cni_shim.delete_queue import DeleteQueue, QueueError
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.hangups import Hangups
from cni_shim.ipam_client import IpamClient, IpamdError
from cni_shim.log import configure
from cni_shim.node_watch import NodeWatch
from cni_shim.queue_worker import QueueWorker
from cni_shim.settings import Settings, SettingsError
from cni_shim.spec import CniRequest, Verb
from cni_shim.verbs import Verbs

log = structlog.get_logger()

WORKERS = 192
"""Threads that serve a request each. More than the pods that a usual node can start at once."""

MOST_ADDS = 160
"""ADDs under way at most. They may all wait for an address, and the DELs that would free one must
find a thread: the other 32 are theirs."""

REQUEST_SECONDS = 5.0
"""A launcher sends its whole request at once; one that dawdles must not hold a thread."""

SWITCH_INTERVAL_SECONDS = 50e-6
"""As in ipamd: a decoding thread must not delay a verb by the default 5 ms per hand-over."""

STOP_SECONDS = 5.0
_CREDENTIALS = struct.Struct("3i")
_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000


def _nothing() -> None:
    """An answer that changed nothing needs no undoing when it is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer, what to do if it cannot be delivered, and what to log once it was."""

    answer: frames.Answer
    undo: Callable[[], None] = _nothing
    tell: Callable[[], None] = _nothing


class Server:
    """Turns frames into verbs and what came of them into answers."""

    def __init__(self, verbs: Verbs, ipam: IpamClient, hangups: Hangups) -> None:
        self._verbs = verbs
        self._ipam = ipam
        self._hangups = hangups
        self._adds = threading.BoundedSemaphore(MOST_ADDS)
        status = Path("/proc/self/ns/net").stat()
        self._own_netns = (status.st_dev, status.st_ino)

    def handle(self, connection: socket.socket) -> None:
        """Serve one connection to its end; never raises."""
        with connection:
            try:
                self._serve(connection)
            except frames.FrameError as e:
                log.warning("bad_frame", error=str(e))
            except OSError as e:
                log.info("launcher_gone", error=str(e))
            except Exception:  # a worker that dies silently would leave the launcher waiting
                log.exception("request_failed")

    def _serve(self, connection: socket.socket) -> None:
        if not _is_root(connection):
            return
        raw, netns_fd = frames.recv_request(connection, time.monotonic() + REQUEST_SECONDS)
        deadline = time.monotonic() + raw.deadline_ms / 1000
        try:
            outcome = self._answer(raw, netns_fd, connection, deadline)
        finally:
            if netns_fd is not None:
                os.close(netns_fd)
        try:
            frames.send_answer(connection, outcome.answer, time.monotonic() + REQUEST_SECONDS)
        except (OSError, frames.FrameError):
            outcome.undo()
            raise
        outcome.tell()

    def _answer(
        self,
        raw: frames.Request,
        netns_fd: int | None,
        connection: socket.socket,
        deadline: float,
    ) -> Outcome:
        """What the launcher is to be told."""
        try:
            request = spec.parse(raw.value, raw.stdin)
            match request.verb:
                case Verb.ADD:
                    return self._add(request, raw, netns_fd, connection, deadline)
                case Verb.DEL:
                    assert request.key is not None
                    self._verbs.delete(request, request.key, deadline_monotonic=deadline)
                    return Outcome(answer=frames.Answer(exit_status=0))
                case Verb.CHECK | Verb.GC | Verb.STATUS:
                    raise CniError(
                        CniErrorCode.INVALID_ENVIRONMENT,
                        f"CNI_COMMAND={request.verb.name} is not available in this version",
                        "ADD, DEL and VERSION are; set disableCheck in the network config",
                    )
        except CniError as e:
            log.warning("verb_failed", container=raw.value("CNI_CONTAINERID"), error=str(e))
            return _failed(e, raw)
        except Exception as e:  # the runtime must get a document whatever happens
            log.exception("verb_crashed", container=raw.value("CNI_CONTAINERID"))
            error = CniError(
                CniErrorCode.IO_FAILURE, "vpc-cnid failed", f"{type(e).__name__}: {e}; see its log"
            )
            return _failed(error, raw)

    def _add(
        self,
        request: CniRequest,
        raw: frames.Request,
        netns_fd: int | None,
        connection: socket.socket,
        deadline: float,
    ) -> Outcome:
        if not self._adds.acquire(blocking=False):
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "too many ADDs are under way",
                f"{MOST_ADDS} wait for an address or are being wired; see ipamctl status",
            )
        try:
            return self._add_admitted(request, raw, netns_fd, connection, deadline)
        finally:
            self._adds.release()

    def _add_admitted(
        self,
        request: CniRequest,
        raw: frames.Request,
        netns_fd: int | None,
        connection: socket.socket,
        deadline: float,
    ) -> Outcome:
        assert request.key is not None
        descriptor = self._checked_netns(request, raw, netns_fd)
        attempt = Attempt(request.key, self._ipam, deadline_monotonic=deadline)
        with self._hangups.watched(connection, attempt.cancel):
            result = self._verbs.add(request, descriptor, attempt)
        return Outcome(
            answer=frames.Answer(
                exit_status=0, stdout=results.to_json(result, request.cni_version)
            ),
            undo=lambda: self._verbs.undo_locked(request, attempt),
            tell=lambda: log.info(
                "attached",
                key=str(request.key),
                pod=f"{request.pod.namespace}/{request.pod.name}",
                address=str(result.ips[0].address.ip),
                link=result.interfaces[0].name,
            ),
        )

    def _checked_netns(self, request: CniRequest, raw: frames.Request, netns_fd: int | None) -> int:
        """The pod's namespace descriptor. Raises CniError 8 for anything that cannot be one."""
        if netns_fd is None:
            why = os.strerror(raw.netns_errno) if raw.netns_errno else "no descriptor came along"
            raise CniError(
                CniErrorCode.INVALID_NETNS,
                "CNI_NETNS cannot be opened",
                f"{request.netns_path}: {why}",
            )
        try:
            is_network = fcntl.ioctl(netns_fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
        except OSError:
            is_network = False
        if not is_network:
            raise CniError(
                CniErrorCode.INVALID_NETNS,
                "CNI_NETNS is no network namespace",
                request.netns_path,
            )
        status = os.fstat(netns_fd)
        is_own = (status.st_dev, status.st_ino) == self._own_netns
        if is_own and not request.allows_own_netns:
            raise CniError(
                CniErrorCode.INVALID_NETNS,
                "CNI_NETNS is the node's own network namespace",
                f"{request.netns_path}; a pod on the host network needs no plugin",
            )
        return netns_fd


def _failed(error: CniError, raw: frames.Request) -> Outcome:
    document = error.to_json(spec.error_version(raw.stdin))
    return Outcome(answer=frames.Answer(exit_status=1, stdout=document))


def _is_root(connection: socket.socket) -> bool:
    """Only uid 0 may ask; the socket is 0600, this says it where the check can be read."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    if uid != 0:
        log.warning("peer_refused", pid=pid, uid=uid)
    return bool(uid == 0)


class Daemon:
    """The threads of one vpc-cnid, from `start` until `wait` returns the exit status."""

    def __init__(self, wanted: Settings) -> None:
        self._settings = wanted
        self._is_stopping = threading.Event()
        self._exit_status = 0
        self._netlink = HostNetlink()
        self._notices = LinkNotices()
        self._pods = PodDatapath(self._netlink, self._notices)
        self._ipam = IpamClient(wanted.ipamd_socket)
        self._queue = DeleteQueue(wanted.run_dir)
        self._queue_worker = QueueWorker(self._queue)
        self._verbs = Verbs(
            self._ipam,
            self._pods,
            queue_release=self._queue_worker.put,
            finish_queued=self._queue_worker.finish,
        )
        self._queue_worker.serve(self._verbs)
        self._watch = NodeWatch(
            self._ipam,
            HostDatapath(self._netlink),
            self._pods,
            self._verbs,
            heartbeat=wanted.heartbeat,
            eni_mtu=wanted.eni_mtu,
        )
        self._busy = threading.Semaphore(WORKERS)

    def start(self) -> None:
        """Drain the queue, listen, and start every thread."""
        self._notices.subscribe(self._watch.on_notice)
        self._notices.start()
        self._queue.take_lock()
        try:
            self._queue_worker.load()
            self._queue_worker.drain()
            listener = _listen(self._settings)
        finally:
            self._queue.release()
        server = Server(self._verbs, self._ipam, Hangups())
        self._thread("watch", self._watch_ipamd)
        self._thread("node", lambda: self._watch.run(self._is_stopping.is_set))
        self._thread("queue", lambda: self._queue_worker.run(self._is_stopping.is_set))
        accepting = Accepting(listener)
        for number in range(WORKERS):
            self._thread(f"verb-{number}", lambda: self._accept(accepting, server))
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
        deadline = time.monotonic() + STOP_SECONDS
        for _ in range(WORKERS):  # each that is taken is a verb that has ended
            if not self._busy.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
                log.warning("verbs_cut_off")
                break
        return self._exit_status

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
            with self._busy:
                server.handle(connection)

    def _watch_ipamd(self) -> None:
        """Follow the wanted network for ever; ipamd may come and go."""
        while not self._is_stopping.is_set():
            try:
                self._recall()
                for network in self._ipam.watch():
                    self._watch.wanted(network)
            except IpamdError as e:
                log.info("watch_ended", error=str(e))
            time.sleep(0.2)

    def _recall(self) -> None:
        """Know what is allocated, so that a DEL need not ask."""
        reply = self._ipam.list(deadline_monotonic=time.monotonic() + 3600.0)
        self._verbs.remember(tuple(reply.allocations))


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
        _explain_arguments()
    try:
        wanted = settings.load(os.environ)
        configure(wanted.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        _make_run_dir(wanted.run_dir)
        lock = _only_one(wanted)
        daemon = Daemon(wanted)
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
    # Threads still in the kernel or in gRPC hold nothing that matters, and must not hold us.
    os._exit(status)


def _explain_arguments() -> None:
    """--help, and a refusal of anything else: what can be set is in the environment."""
    import argparse  # late: the daemon itself never needs it

    argparse.ArgumentParser(
        prog="vpc-cnid",
        description="The CNI daemon of one node: serves the vpc-cni launcher, wires pods and ENIs.",
        epilog="Settings are environment variables: VPC_IPAMD_RUN_DIR, VPC_IPAMD_LOG_LEVEL, "
        "AWS_VPC_ENI_MTU. Exit status: 0 after SIGTERM, 1 when it failed, 2 when a setting, the "
        "run directory or the kernel cannot be used.",
    ).parse_args()


def _make_run_dir(path: Path) -> None:
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
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
