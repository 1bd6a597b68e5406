"""Every error the core can raise, named by the reaction it asks for.

A subclass exists only where some caller reacts differently. `CloudError` crosses the pipe between
ipamd and its cloud child, so all of them pickle by their keyword fields.
"""

from __future__ import annotations

from typing import Any


class IpamError(Exception):
    """The root: something this project foresaw. Its text names what was seen and what to do."""


class SettingsError(IpamError):
    """One or more settings cannot be used; the text lists every one of them."""


class NoAddressAvailable(IpamError):
    """No address could be had within the deadline.

    `retry_after_seconds` is when asking again makes sense; `subnet_id` and `eni_id` name what was
    exhausted, where that is the reason.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float, subnet_id: str = "", eni_id: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.subnet_id = subnet_id
        self.eni_id = eni_id


class NotReady(IpamError):
    """The daemon does not know enough yet to hand out an address (no report, no discovery)."""


class AttachmentConflict(IpamError):
    """The attachment key holds an allocation of another network namespace; tear that down first."""


class AttemptRevoked(IpamError):
    """A tombstone refuses this attempt: a release for the key came after the attempt began."""


class UnknownAttachment(IpamError):
    """No allocation stands under this key."""


class BadRequest(IpamError):
    """A request whose fields cannot be; nothing was looked up."""


class StoreError(IpamError):
    """The store could not be read or written. Nothing that it was asked to record is visible."""


class Corrupt(StoreError):
    """The store file is not a database, or fails its integrity check."""


class UnknownVersion(StoreError):
    """The store was written by another schema version."""


class ForeignStore(StoreError):
    """The store belongs to another instance or another boot."""


class CloudError(IpamError):
    """A cloud call failed. `operation` and `code` are the cloud's words, for the log."""

    def __init__(
        self,
        message: str,
        *,
        operation: str = "",
        code: str = "",
        request_id: str = "",
        retry_after_seconds: float = 0.0,
        subnet_id: str = "",
        eni_id: str = "",
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.code = code
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.subnet_id = subnet_id
        self.eni_id = eni_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by field: exceptions with keyword arguments otherwise fail to unpickle."""
        return _rebuild_cloud_error, (type(self), self.args[0], dict(self.__dict__))


def _rebuild_cloud_error(
    kind: type[CloudError], message: str, fields: dict[str, Any]
) -> CloudError:
    return kind(message, **fields)


class Throttled(CloudError):
    """The cloud asks us to slow down. The call had no effect."""


class Busy(CloudError):
    """The ENI is being changed by somebody else. Nothing was done; asking again soon is right, and
    other ENIs are not concerned."""


class Transient(CloudError):
    """Time-out, connection loss or a server error. The call may have had its effect: read back."""


class SubnetExhausted(CloudError):
    """The subnet has fewer addresses left than were asked for. `subnet_id` names it."""


class NoPrefixFree(SubnetExhausted):
    """The subnet has no free block of a prefix's size; single addresses may still be free."""


class LimitReached(CloudError):
    """A limit of the instance type, the ENI or the account is reached; our view is stale."""


class Denied(CloudError):
    """The credentials do not allow the call; repeating it is of no use until a human acts."""


class NotFound(CloudError):
    """The thing the call names does not exist (or is not visible yet)."""


class Unsupported(CloudError):
    """This cloud cannot do that at all."""
