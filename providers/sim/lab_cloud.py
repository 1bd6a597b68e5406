"""What of the lab is one cloud's own: the program that plays it, how its daemons find it, and what
a machine of it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EC2_ENDPOINT = "http://192.0.2.10"  # see `server`


@dataclass(frozen=True, slots=True, kw_only=True)
class LabCloud:
    """One cloud. `name` is the daemons' VPC_IPAMD_CLOUD.

    `environment` makes what its daemons get beside it, of the line that the server prints when it
    serves. `kinds` of machines there are, if several, and which is meant where none is named;
    `has_further_enis`: a machine may have more than one ENI from the start. `mtu` is what DHCP says
    where it is not the link's own.
    """

    name: str
    server: str
    default_type: str
    zones: tuple[str, str]
    environment: Callable[[Mapping[str, Any]], dict[str, str]]
    kinds: tuple[str, ...] = ()
    has_further_enis: bool = False
    mtu: int | None = None

    def machine(self, instance_type: str, kind: str, nics: int) -> dict[str, Any]:
        """What to ask the server's `add_node` for; ValueError for a machine that there is not."""
        asked: dict[str, Any] = {"instance_type": instance_type or self.default_type}
        if kind and kind not in self.kinds:
            raise ValueError(f"{self.name} has no machines of kind {kind!r}")
        if nics != 1 and not self.has_further_enis:
            raise ValueError(f"a machine of {self.name} starts with one ENI, not {nics}")
        if self.kinds:
            asked |= {"kind": kind or self.kinds[0]}
        return asked | ({"nics": nics} if self.has_further_enis else {})


def _ec2_environment(said: Mapping[str, Any]) -> dict[str, str]:
    del said  # always the same
    return {"AWS_ENDPOINT_URL_EC2": EC2_ENDPOINT, "AWS_REGION": "us-west-2"}


def _azure_environment(said: Mapping[str, Any]) -> dict[str, str]:
    """Credentials come from the metadata service; the certificate is the emulator's own, and
    `requests`, which azure-core sends by, takes it from this variable."""
    return {
        "VPC_IPAMD_CLOUD": "azure",
        "AZURE_ARM_ENDPOINT": said["arm"],
        "REQUESTS_CA_BUNDLE": said["ca"],
    }


EC2 = LabCloud(
    name="aws",
    server="providers.sim.server",
    default_type="m5.large",
    zones=("us-west-2a", "us-west-2b"),
    environment=_ec2_environment,
)
AZURE = LabCloud(
    name="azure",
    server="providers.sim.azure_server",
    default_type="Standard_D4s_v5",
    zones=("1", "2"),
    environment=_azure_environment,
    kinds=("vm", "scale-set"),
    has_further_enis=True,
    mtu=1500,  # Azure docs, "TCP/IP performance tuning": the default of a VM's NIC
)
CLOUDS: Mapping[str, LabCloud] = {cloud.name: cloud for cloud in (EC2, AZURE)}
