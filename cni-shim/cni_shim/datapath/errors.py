"""What the datapath can raise; each class exists because a caller reacts to it differently."""

from __future__ import annotations

import errno as errno_names
import os

from cni_shim.datapath.families import Address


class DatapathError(Exception):
    """The kernel (or nft) refused a step. `op` names the step, `errno` is the kernel's number."""

    def __init__(self, op: str, errno: int, detail: str = "") -> None:
        name = errno_names.errorcode.get(errno, str(errno))
        said = f" ({detail})" if detail else ""
        super().__init__(f"{op}: {name}, {os.strerror(errno)}{said}")
        self.op = op
        self.errno = errno
        self.detail = detail


class ForeignInterface(DatapathError):
    """The pod already has an interface of the wanted name that is not of this attachment."""

    def __init__(self, ifname: str) -> None:
        super().__init__(
            f"interface {ifname} in the pod", errno_names.EEXIST, "it is not of this attachment"
        )
        self.ifname = ifname


class AddressInUse(DatapathError):
    """The kernel already uses the address for something else: quarantine it and take another."""

    def __init__(self, address: Address, where: str) -> None:
        super().__init__(f"address {address}", errno_names.EADDRINUSE, f"in use by {where}")
        self.address = address
        self.where = where
