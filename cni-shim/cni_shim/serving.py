"""One request to vpc-cnid: from the bytes of a launcher to its answer.

A worker thread of `server.Daemon` runs `Server.handle` for each connection. Whatever happens, the
launcher gets one document; what it asked for is undone where the answer does not reach it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cni_shim import frames, results, spec
from cni_shim.attempt import Attempt, Releaser
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.hangups import Hangups
from cni_shim.spec import CniRequest, Verb
from cni_shim.status import Silence, status_error
from cni_shim.verbs import Verbs

log = structlog.get_logger()

MOST_ADDS = 160
"""ADDs under way at most. They may all wait for an address, and the DELs that would free one must
find a thread: the other 32 are theirs."""

REQUEST_SECONDS = 5.0
"""A launcher sends its whole request at once; one that dawdles must not hold a thread."""

GC_MARGIN_SECONDS = 1.0
"""Kept back from GC's deadline, for the answer that tells what is left."""

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


_SUCCESS = Outcome(answer=frames.Answer(exit_status=0))


class Server:
    """Turns frames into verbs and what came of them into answers."""

    def __init__(
        self,
        verbs: Verbs,
        ipam: Releaser,
        hangups: Hangups,
        *,
        silence: Silence,
        host_problem: Callable[[], str],
    ) -> None:
        """`host_problem`: why the node's network does not stand; empty if it does."""
        self._verbs = verbs
        self._ipam = ipam
        self._hangups = hangups
        self._silence = silence
        self._host_problem = host_problem
        self._status_code = 0
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
        try:
            raw, netns_fd = frames.recv_request(connection, time.monotonic() + REQUEST_SECONDS)
        except frames.UnknownProtocol as e:
            end = time.monotonic() + REQUEST_SECONDS
            frames.send_answer(connection, _refusal(e), end, frames.PROTOCOL)
            raise
        deadline = time.monotonic() + raw.deadline_ms / 1000
        try:
            outcome = self._answer(raw, netns_fd, connection, deadline)
        finally:
            if netns_fd is not None:
                os.close(netns_fd)
        try:
            frames.send_answer(
                connection, outcome.answer, time.monotonic() + REQUEST_SECONDS, raw.protocol
            )
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
            return self._done(request, raw, netns_fd, connection, deadline)
        except CniError as e:
            log.warning(
                "verb_failed",
                verb=raw.value("CNI_COMMAND"),
                container=raw.value("CNI_CONTAINERID"),
                error=str(e),
            )
            return _failed(e, raw)
        except Exception as e:  # the runtime must get a document whatever happens
            log.exception("verb_crashed", container=raw.value("CNI_CONTAINERID"))
            error = CniError(
                CniErrorCode.IO_FAILURE, "vpc-cnid failed", f"{type(e).__name__}: {e}; see its log"
            )
            return _failed(error, raw)

    def _done(
        self,
        request: CniRequest,
        raw: frames.Request,
        netns_fd: int | None,
        connection: socket.socket,
        deadline: float,
    ) -> Outcome:
        """What came of the verb. Raises CniError."""
        match request.verb:
            case Verb.ADD:
                return self._add(request, raw, netns_fd, connection, deadline)
            case Verb.DEL:
                assert request.key is not None
                deleted = self._verbs.delete(request, request.key, deadline_monotonic=deadline)
                return Outcome(answer=frames.Answer(exit_status=0), tell=deleted.tell)
            case Verb.CHECK:
                assert request.key is not None
                descriptor = self._checked_netns(request, raw, netns_fd)
                self._verbs.check(request, request.key, descriptor, deadline_monotonic=deadline)
            case Verb.GC:
                # Kept back for the answer, which tells what is left.
                self._verbs.collect(request, deadline_monotonic=deadline - GC_MARGIN_SECONDS)
            case Verb.STATUS:
                return self._status(raw)
        return _SUCCESS

    def _status(self, raw: frames.Request) -> Outcome:
        """STATUS comes every few seconds: only a change of it is logged."""
        error = status_error(self._silence.since, self._host_problem(), time.monotonic())
        code = 0 if error is None else int(error.code)
        if code != self._status_code:
            self._status_code = code
            log.warning("status_changed", code=code, error=str(error or ""))
        return _SUCCESS if error is None else _failed(error, raw)

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
                link=result.interfaces[0].name if result.interfaces else "",
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


def _refusal(error: frames.UnknownProtocol) -> frames.Answer:
    """To a launcher of another version, in our own protocol; see `frames`."""
    document = CniError(
        CniErrorCode.TRY_AGAIN_LATER,
        "vpc-cnid does not speak the launcher's protocol",
        f"{error}; install vpc-cni and vpc-cnid of one version",
    ).to_json(spec.NEWEST_VERSION)
    return frames.Answer(exit_status=1, stdout=document)


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
