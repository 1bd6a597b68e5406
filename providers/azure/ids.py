"""ARM resource ids: which thing one names, and its one canonical form.

ARM compares ids without case and gives them back in whatever case somebody once wrote ("Azure
Resource Manager, resource naming rules"), so nothing here compares them in any other form than
`ArmId.text`, which is the whole id in lower case. That form is what the core gets as EniId and
SubnetId. What is sent inside a body stays as ARM gave it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Kind(enum.Enum):
    """What an id can name here; the value is its type path below the resource group, lower case."""

    NIC = "microsoft.network/networkinterfaces"
    INSTANCE_NIC = "microsoft.compute/virtualmachinescalesets/virtualmachines/networkinterfaces"
    VM = "microsoft.compute/virtualmachines"
    INSTANCE = "microsoft.compute/virtualmachinescalesets/virtualmachines"
    SUBNET = "microsoft.network/virtualnetworks/subnets"
    VNET = "microsoft.network/virtualnetworks"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmId:
    """One id. `names` are those of the type path's levels: (set, instance, NIC) of an instance's
    NIC. All in lower case."""

    kind: Kind
    subscription: str
    group: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The canonical id."""
        provider, *levels = self.kind.value.split("/")
        path = "/".join(f"{level}/{name}" for level, name in zip(levels, self.names, strict=True))
        return (
            f"/subscriptions/{self.subscription}/resourcegroups/{self.group}"
            f"/providers/{provider}/{path}"
        )

    @property
    def name(self) -> str:
        """The name of the thing itself, the last one."""
        return self.names[-1]

    @property
    def parent(self) -> ArmId:
        """The instance of a NIC of one, or the VNET of a subnet; ValueError for what has none."""
        match self.kind:
            case Kind.INSTANCE_NIC:
                kind = Kind.INSTANCE
            case Kind.SUBNET:
                kind = Kind.VNET
            case _:
                raise ValueError(f"{self.text} is in nothing")
        return ArmId(
            kind=kind, subscription=self.subscription, group=self.group, names=self.names[:-1]
        )


_NAME = r"(?!\.{1,2}(?:/|$))[^/?#%\s\\]{1,260}"
"""Whatever ARM calls a thing, but for what means something else in a URL."""
_ID = re.compile(
    rf"/subscriptions/({_NAME})/resourcegroups/({_NAME})/providers/({_NAME})((?:/{_NAME}/{_NAME})+)"
)


def arm_id(text: object, *kinds: Kind) -> ArmId:
    """Parse; ValueError for what is no id, or one of another kind than `kinds` (none: any here).

    Example: "/subscriptions/S/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/N"
    -> ArmId(kind=Kind.NIC, subscription="s", group="g", names=("n",)).
    """
    found = _ID.fullmatch(text.lower().rstrip("/")) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{str(text)[:300]!r} is not the id of an ARM resource")
    subscription, group, provider, path = found.groups()
    steps = path.strip("/").split("/")
    kind_text = "/".join((provider, *steps[0::2]))
    wanted = kinds or tuple(Kind)
    kind = next((k for k in wanted if k.value == kind_text), None)
    if kind is None:
        expected = ", ".join(k.value for k in wanted)
        raise ValueError(f"{str(text)[:300]!r} names a {kind_text}; expected {expected}")
    return ArmId(kind=kind, subscription=subscription, group=group, names=tuple(steps[1::2]))


def canonical(text: object, *kinds: Kind) -> str:
    """The canonical form of an id; ValueError like `arm_id`."""
    return arm_id(text, *kinds).text
