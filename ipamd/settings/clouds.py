"""Which settings mean something on which cloud: what is refused there, what has no effect."""

from __future__ import annotations

from ipamd.settings.azure import AZURE
from ipamd.settings.draft import Draft

NOT_ON_AZURE = {
    "ENABLE_IPv6": "IPv6 pods are not built for Azure: set it to false",
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "a NIC's addresses are all of its own subnet on Azure: "
    "set it to false, and put the node's NIC into the subnet where pods shall be",
    "ENABLE_POD_ENI": "Azure has no branch ENIs: set it to false, and use network policies or "
    "application security groups",
}
"""Switches that ask for what Azure does not have, or we do not have there."""

IDLE_ON_AZURE = {
    "ENABLE_SUBNET_DISCOVERY": "no ENI is made on Azure",
    "ADDITIONAL_ENI_TAGS": "no ENI is made on Azure",
    "CLUSTER_NAME": "no ENI is made on Azure",
    "MANAGE_UNTAGGED_ENI": "on Azure a configuration's name says whose it is",
    "VPC_IPAMD_ORPHAN_CLEANUP": "no ENI is made on Azure",
    "ENABLE_MULTI_NIC": "machines on Azure have no network cards",
}
"""Variables without effect there, and why."""


def settle(draft: Draft) -> None:
    """Nothing of EC2's alone is on where the cloud is Azure."""
    if is_azure(draft):
        for name in ("VPC_IPAMD_ORPHAN_CLEANUP", "ENABLE_MULTI_NIC"):
            if draft.flag(name):
                draft.force(name, value=False, by="VPC_IPAMD_CLOUD")


def refuse(draft: Draft) -> None:
    """What cannot be asked for on this cloud."""
    if is_azure(draft):
        draft.refused.extend(
            f"{name}=true with VPC_IPAMD_CLOUD=azure: {why}"
            for name, why in NOT_ON_AZURE.items()
            if draft.flag(name)
        )


def note_idle(draft: Draft) -> None:
    """Say which set values have no effect on this cloud, and which a NIC of Azure makes large."""
    if not is_azure(draft):
        for row in AZURE:
            if draft.is_set(row.name):
                draft.note(row.name, "has no effect: VPC_IPAMD_CLOUD is not azure")
        return
    for name, why in IDLE_ON_AZURE.items():
        if draft.is_set(name):
            draft.note(name, f"has no effect: {why}")
    if names := _counts_nics(draft):
        draft.warnings.append(
            f"{' and '.join(names)} without another target asks for whole NICs of 255 addresses "
            "each on Azure: unset it and let the targets be derived, or set WARM_IP_TARGET above 0"
        )


def _counts_nics(draft: Draft) -> tuple[str, ...]:
    """What was set so that WARM_ENI_TARGET holds, perhaps with its default (on a scale set only
    where it is set itself: `ipamd.derived`). With 0, too, what is bought is a NIC's worth."""
    others = ("WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET")
    if draft.flag("ENABLE_PREFIX_DELEGATION") or any(map(draft.whole, others)):
        return ()
    return tuple(filter(draft.is_set, ("WARM_ENI_TARGET", "WARM_IP_TARGET")))


def is_azure(draft: Draft) -> bool:
    """Whether the node runs in Azure."""
    return draft.text("VPC_IPAMD_CLOUD") == "azure"
