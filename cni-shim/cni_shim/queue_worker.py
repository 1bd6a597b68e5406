"""Works the delete queue off: at the start before anybody is served, then whenever ipamd is back.

An entry leaves the queue only after its release was committed, under the key's lock, so that an ADD
of the same key can never be hit by an old DEL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from cni_shim import frames, spec
from cni_shim.delete_queue import DeleteQueue, QueuedDelete, QueueError
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.spec import AttachmentKey, CniRequest
from cni_shim.verbs import Verbs

log = structlog.get_logger()

ENTRY_SECONDS = 1.5
"""For one entry, mostly to ask ipamd: launchers wait 3 s for the lock that a start holds."""

RETRY_SECONDS = 1.0


class QueueWorker:
    """The pending deletes of this node."""

    def __init__(self, queue: DeleteQueue) -> None:
        self._queue = queue
        self._pending: dict[AttachmentKey, QueuedDelete] = {}
        self._verbs: Verbs | None = None
        self._wake = threading.Event()

    def serve(self, verbs: Verbs) -> None:
        """Set the verbs that do the work; before anything else."""
        self._verbs = verbs

    @property
    def pending(self) -> int:
        """How many deletes wait."""
        return len(self._pending)

    def waits_for(self, key: AttachmentKey) -> bool:
        """Whether a DEL of the key is queued."""
        return key in self._pending

    def load(self) -> None:
        """Read the queue; call with the lock held, before listening."""
        self._pending = {entry.key: entry for entry in self._queue.entries()}

    def drain(self) -> None:
        """Try every pending delete once; stops at the first that ipamd could not take."""
        for key in tuple(self._pending):
            try:
                with self._held_verbs().locked(key, timeout_seconds=ENTRY_SECONDS):
                    if not self._finish_or_set_aside(key):
                        return
            except (CniError, QueueError, TimeoutError) as e:
                log.warning("queued_delete_failed", key=str(key), error=str(e))

    def put(self, request: CniRequest) -> None:
        """Queue the release of a DEL whose kernel part is done. Raises CniError 11.

        One that waits already stays as it is: it is the same attachment's, since an ADD of the key
        is served only after it, and a drain that still finds nobody comes here every second.
        """
        assert request.key is not None
        if request.key in self._pending:
            return
        frame = _frame(request, request.key)
        try:
            self._queue.put(frames.pack_request(frame))
        except (QueueError, frames.FrameError) as e:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "ipamd is away and the delete queue takes nothing",
                str(e),
            ) from e
        self._pending[request.key] = QueuedDelete(
            key=request.key, request=frame, queued_unix=time.time()
        )
        log.warning("release_queued", key=str(request.key), waiting=len(self._pending))
        self._wake.set()

    def finish(self, key: AttachmentKey) -> None:
        """Before an ADD, with the key's lock held: do its queued DEL first. Raises CniError 11."""
        if key not in self._pending:
            return
        try:
            is_done = self._finish(key)
        except QueueError as e:
            raise CniError(CniErrorCode.TRY_AGAIN_LATER, "a DEL is queued", str(e)) from e
        if not is_done:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "a DEL of this attachment is still queued",
                "ipamd does not answer; is it running?",
            )

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Drain for ever, a second apart while anything is left."""
        while not is_stopping():
            self._wake.wait(timeout=None if not self._pending else RETRY_SECONDS)
            self._wake.clear()
            self.drain()

    def _finish_or_set_aside(self, key: AttachmentKey) -> bool:
        """With the key's lock held, so that what is set aside is what failed and no newer DEL."""
        try:
            return self._finish(key)
        except (CniError, QueueError):
            raise
        except Exception as e:  # one entry that cannot be done must not keep the node down
            log.exception("queued_delete_crashed", key=str(key))
            del self._pending[key]
            self._queue.set_aside(key, f"{type(e).__name__}: {e}")
            return True

    def _finish(self, key: AttachmentKey) -> bool:
        entry = self._pending.get(key)
        if entry is None:
            return True
        is_done = self._held_verbs().delete_held(
            _request(entry), key, deadline_monotonic=time.monotonic() + ENTRY_SECONDS
        )
        if is_done:
            self._queue.remove(key)
            del self._pending[key]
            log.info("queued_delete_done", key=str(key), left=len(self._pending))
        return is_done

    def _held_verbs(self) -> Verbs:
        assert self._verbs is not None
        return self._verbs


def _request(entry: QueuedDelete) -> CniRequest:
    """The request of an entry; a config that cannot be read must not keep an address."""
    try:
        return spec.parse(entry.request.value, entry.request.stdin)
    except CniError as e:
        log.warning("queued_config_unreadable", key=str(entry.key), error=str(e))
        return spec.blank_delete(entry.key)


def _frame(request: CniRequest, key: AttachmentKey) -> frames.Request:
    """The DEL as it came, less what tearing down never asks for: the configuration whole, as its
    `ipam` and prevResult find what a lost store has forgotten."""
    args = f"K8S_POD_NAMESPACE={request.pod.namespace};K8S_POD_NAME={request.pod.name}"
    return frames.Request(
        deadline_ms=1,
        env=tuple(
            frames.EnvVar(name=name, value=value)
            for name, value in (
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", key.container_id),
                ("CNI_IFNAME", key.ifname),
                ("CNI_ARGS", args),
                ("CNI_PATH", "/"),
            )
        ),
        stdin=request.stdin,
    )
