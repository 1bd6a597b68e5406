"""Bearer tokens of the emulated Entra ID: made for the metadata service, checked by ARM.

Only digests are kept, so that no token can reach a log, an error or a memory dump of ours.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from providers.sim.arm_errors import ArmError

# What a managed identity's token lives (Entra ID documentation, "Managed identities", 24 hours).
DEFAULT_SECONDS = 86_400
MANAGEMENT = "https://management.azure.com"
_CHALLENGE = {
    "WWW-Authenticate": 'Bearer authorization_uri="https://login.windows.net/sim", '
    'error="invalid_token"'
}


class TokenIssuer:
    """Issues tokens that repeat with the seed, and knows which are valid.

    `audiences` are what a token may be for: public Azure's ARM. Another cloud's is for its own
    endpoint, and so is one for an emulated ARM that clients know by its address.
    """

    def __init__(self, clock: Callable[[], float], seed: int = 0) -> None:
        self._clock = clock
        self._random = random.Random(f"tokens {seed}")  # noqa: S311 - of an emulated cloud
        self._known: dict[str, tuple[float, str]] = {}
        self.audiences = {MANAGEMENT}

    def issue(self, seconds: float = DEFAULT_SECONDS, resource: str = MANAGEMENT) -> str:
        """A token for `resource` (a trailing slash does not matter) that lives `seconds`."""
        token = f"sim.{self._random.randbytes(32).hex()}"
        self._known[digest(token)] = (self._clock() + seconds, resource.rstrip("/"))
        return token

    def revoke_all(self) -> None:
        """Make every token unknown."""
        self._known.clear()

    def check(self, authorization: str) -> None:
        """Raise 401 unless the header's value is `Bearer` and a token that is valid for ARM."""
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refused("AuthenticationFailed", "The 'Authorization' header is missing.")
        until, resource = self._known.get(digest(token.strip()), (0.0, ""))
        if not until:
            raise _refused("InvalidAuthenticationToken", "The access token is invalid.")
        if resource not in self.audiences:
            raise _refused(
                "InvalidAuthenticationTokenAudience",
                f"The access token is for '{resource}' and not for '{MANAGEMENT}'.",
            )
        if self._clock() >= until:
            raise _refused("ExpiredAuthenticationToken", "The access token has expired.")


def _refused(code: str, message: str) -> ArmError:
    return ArmError(401, code, f"Authentication failed. {message}", headers=_CHALLENGE)


def digest(token: str) -> str:
    """What a token is known by."""
    return hashlib.sha256(token.encode()).hexdigest()
