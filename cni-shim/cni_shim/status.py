"""STATUS: whether an ADD has a chance now, told from what was last seen and without asking anybody.

containerd calls STATUS every 5 s, without a time limit and under the lock that its ADDs need, and
turns the node NotReady on an error. So an upgrade must not show: only an ipamd that has been silent
for more than a minute is an error. An empty pool is none, since an ADD waits for an address.
"""

from __future__ import annotations

import threading

from cni_shim.errors import CniError, CniErrorCode

SILENCE_SECONDS = 60.0
"""As the launchers' age of the heartbeat, by which they answer while vpc-cnid is away."""


NEVER = float("-inf")


def status_error(silent_since: float | None, host_problem: str, now: float) -> CniError | None:
    """What STATUS answers; None is success. Pure.

    `silent_since`: when ipamd ceased to answer, None while it does, `NEVER` if it never did.
    `host_problem`: why the node's own network does not stand as wanted; empty if it does.
    """
    if silent_since is None or now - silent_since <= SILENCE_SECONDS:
        return None
    since = "not yet" if silent_since == NEVER else f"not for {now - silent_since:.0f} s"
    heard = f"{since}; check that ipamd runs on this node"
    if host_problem:
        return CniError(
            CniErrorCode.LIMITED_CONNECTIVITY,
            "ipamd does not answer and the node's network could not be set up",
            f"ipamd: {heard}; network: {host_problem}",
        )
    return CniError(CniErrorCode.PLUGIN_NOT_AVAILABLE, "ipamd does not answer", heard)


class Silence:
    """Since when ipamd has been silent. Every call from any thread; none waits."""

    def __init__(self, *, seen_at: float | None) -> None:
        """`seen_at`: when ipamd last answered an earlier vpc-cnid of this boot, on the clock of
        `unheard`; None if it never did, and then the node has yet to show that it works."""
        self._lock = threading.Lock()
        self._since: float | None = NEVER if seen_at is None else seen_at

    @property
    def since(self) -> float | None:
        """None while ipamd answers."""
        return self._since

    def heard(self) -> None:
        """ipamd answered, be it with an error."""
        if self._since is not None:  # nearly never, and this is called for every verb
            with self._lock:
                self._since = None

    def unheard(self, now: float) -> None:
        """A call of ipamd had no answer."""
        with self._lock:
            if self._since is None:
                self._since = now
