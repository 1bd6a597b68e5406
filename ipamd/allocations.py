"""The RPC workflows: an attachment gets an address, waiting for one if it must, and gives it back.

Called by the gRPC server on the event loop. Waiting attachments queue in order of arrival; their
number is demand that the planner sees, and each arrival wakes the reconciler.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from ipamd import clock
from ipamd.arrivals import ArrivalLog
from ipamd.errors import NoAddressAvailable, NotReady
from ipamd.keeper import Keeper
from ipamd.model import AddressState, Allocation, AttachmentKey, AttemptId, EniId
from ipamd.pool import attachments, choice, turns
from ipamd.pool.attachments import Granted, Outcome, Released, Request
from ipamd.pool.choice import Ahead, Rules
from ipamd.pool.ledger import Change, Ledger
from ipamd.pool.turns import Claim

log = structlog.get_logger()


WAKE_SECONDS = 0.02
"""How long after a served Allocate the planner looks. Nobody waits for it: who does wakes it at
once. A burst of ADDs within it is planned, and asked of the cloud, in one go."""


AHEAD_SECONDS = 0.005
"""How long after a change of the ledger the next choice is made: a quarter of an Allocate's work
with 87 addresses, more with more; made at once, it would delay those that come in a burst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Why there is no address now, for the one who asked in vain."""

    sentence: str
    retry_after_seconds: float
    subnet_id: str = ""
    eni_id: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Turn:
    """An attachment that waits. A card other than 0 is served by that card alone, and who wants an
    ENI ("primary" or its id) by that ENI alone."""

    network_card: int
    eni: str
    has_come: asyncio.Event = field(default_factory=asyncio.Event)


class Allocations:
    """Serves Allocate and Release. `explain` tells why none is free, on one ENI where the
    attachment insists on it; `wake` starts a cycle; `arrivals` is told who comes."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        rules: Callable[[], Rules],
        explain: Callable[[EniId | None], Shortage],
        wake: Callable[[], None],
        arrivals: ArrivalLog | None = None,
    ) -> None:
        self._keeper = keeper
        self._arrivals = arrivals or ArrivalLog()
        self._rules = rules
        self._explain = explain
        self._wake = wake
        self._soon: asyncio.TimerHandle | None = None
        self._ahead: Ahead | None = None
        self._ahead_soon: asyncio.TimerHandle | None = None
        self._queue: deque[_Turn] = deque()
        keeper.listen(self._on_commit)

    @property
    def waiting(self) -> int:
        """Attachments that wait for an address right now."""
        return len(self._queue)

    @property
    def pinned(self) -> Mapping[EniId, int]:
        """Of `waiting` those that insist on an ENI, by ENI."""
        ledger = self._keeper.ledger
        found = (turns.find_eni(ledger, turn.eni) for turn in self._queue if turn.eni)
        return Counter(eni.eni_id for eni in found if eni is not None)

    def take(self, request: Request) -> Granted | None:
        """`allocate` without the wait: None where it would wait."""
        return self._try(request, queued=None)

    async def allocate(self, request: Request, *, wait_seconds: float) -> Granted:
        """An address for the attachment, durable when this returns.

        Raises NoAddressAvailable or NotReady after `wait_seconds`, AttemptRevoked, BadRequest and
        AttachmentConflict at once, StoreError when the ledger could not be written.
        """
        return self.take(request) or await self._wait_for_one(request, wait_seconds)

    async def _wait_for_one(self, request: Request, wait_seconds: float) -> Granted:
        turn = _Turn(network_card=request.network_card, eni=request.eni)
        pod = _pod(request)
        self._queue.append(turn)
        self._arrivals.came(pod, clock.boottime())
        self._wake()
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    await turn.has_come.wait()
                    turn.has_come.clear()
                    granted = self._try(request, queued=turn)
                    if granted:
                        return granted
        except TimeoutError:
            self._arrivals.sent_away(pod, clock.boottime())
            raise self._refusal(request, wait_seconds) from None
        except BaseException:  # cancelled, too: nothing else takes a pod that waits out of the log
            self._arrivals.forget(pod)
            raise
        finally:
            self._queue.remove(turn)
            # The one behind may have been waiting for its turn only, not for an address.
            self._wake_queue()

    def _try(self, request: Request, queued: _Turn | None) -> Granted | None:
        is_repeat = request.key in self._keeper.ledger.allocations  # takes nothing from others
        among = None if is_repeat else self._open_enis(request, queued)
        if among is not None and not among:
            attachments.refuse_revoked(self._keeper.ledger, request)
            if request.eni and self._keeper.ledger.enis:
                turns.wanted_eni(self._keeper.ledger, request.eni)
            return None
        try:
            granted = attachments.grant(
                self._keeper.ledger,
                request,
                rules=self._rules(),
                now=clock.boottime(),
                now_unix=clock.unix(),
                among=among,
                ahead=self._ahead,
            )
        except NotReady:
            return None  # a start takes a second or two; `_refusal` tells it when it takes longer
        if granted is None:
            return None
        self._keeper.commit(granted.change)
        if not granted.is_repeat:
            self._arrivals.served(_pod(request), clock.boottime())
            self._wake_soon()
        return granted

    def _open_enis(self, request: Request, queued: _Turn | None) -> frozenset[EniId] | None:
        """First come, first served: the ENIs that those ahead leave for this one; None is all."""
        ahead: list[Claim] = []
        for waiting in self._queue:
            if waiting is queued:
                break
            ahead.append(self._claim(waiting.network_card, waiting.eni))
        if not ahead:
            return None
        ledger = self._keeper.ledger
        return turns.open_enis(
            choice.free_by_eni(ledger, self._rules()),
            {e.eni_id: e.network_card for e in ledger.enis.values()},
            ahead,
            self._claim(request.network_card, request.eni),
        )

    def _claim(self, network_card: int, wish: str) -> Claim:
        if not wish:
            return Claim(network_card=network_card)
        # An ENI that is not known has nothing to give: the claim is on that much.
        eni = turns.find_eni(self._keeper.ledger, wish)
        return Claim(eni_id=eni.eni_id if eni else EniId(wish))

    def _refusal(self, request: Request, waited_seconds: float) -> NoAddressAvailable | NotReady:
        if not self._keeper.ledger.has_heard_node:
            return NotReady(
                f"waited {waited_seconds:.1f} s: the store is new or was lost, and vpc-cnid has "
                "not reported which addresses the kernel uses; is vpc-cnid running?"
            )
        eni = turns.find_eni(self._keeper.ledger, request.eni) if request.eni else None
        why = self._explain(eni.eni_id if eni else None)
        return NoAddressAvailable(
            f"no address became available in {waited_seconds:.1f} s: {why.sentence}",
            retry_after_seconds=why.retry_after_seconds,
            subnet_id=why.subnet_id,
            eni_id=why.eni_id,
        )

    def release(
        self,
        key: AttachmentKey,
        *,
        generation: int = 0,
        attempt_id: AttemptId | None = None,
        is_foreign_use: bool = False,
        reason: str = "",
    ) -> Released:
        """End the allocation under `key`; durable when this returns. Raises StoreError."""
        released = attachments.release(
            self._keeper.ledger,
            key,
            generation=generation,
            attempt_id=attempt_id,
            is_foreign_use=is_foreign_use,
            reason=reason,
            now=clock.boottime(),
        )
        self._keeper.commit(released.change)
        if released.outcome is Outcome.RELEASED:
            self._wake_soon()  # the cooldown just started is the next thing to happen
        return released

    def _wake_soon(self) -> None:
        """Plan once the answer is out, and once for a burst: planning beside it costs the ADD."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(WAKE_SECONDS, self._wake_now)

    def _wake_now(self) -> None:
        self._soon = None
        self._wake()

    def _choose_ahead(self) -> None:
        self._ahead_soon = None
        self._ahead = choice.choose_ahead(self._keeper.ledger, self._rules())

    def get(self, key: AttachmentKey) -> Allocation | None:
        """The allocation under a key."""
        return self._keeper.ledger.allocations.get(key)

    def _on_commit(self, change: Change, after: Ledger) -> None:
        del after
        self._ahead = None
        if self._ahead_soon is None:
            loop = asyncio.get_running_loop()
            self._ahead_soon = loop.call_later(AHEAD_SECONDS, self._choose_ahead)
        if (
            any(a.state is AddressState.AVAILABLE for a in change.put_addresses)
            or change.put_enis
            or change.put_tombstones
            or change.drop_allocations
            or change.has_heard_node
        ):
            self._wake_queue()

    def _wake_queue(self) -> None:
        for turn in self._queue:
            turn.has_come.set()


def _pod(request: Request) -> str:
    """What names a pod over its sandboxes; each is its own where nobody says whose it is."""
    if not request.pod_name:
        return request.key.container_id
    return f"{request.pod_namespace}/{request.pod_name}"
