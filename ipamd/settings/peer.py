"""aws-node's variables that ipamd itself does not act on; what is said where one is set.

Names, defaults and ranges are facts of amazon-vpc-cni-k8s at v1.23.1 (its README, cmd/, pkg/ and
charts/). A row that leaves this module for `ipamd.settings.table` is a feature that was built.
"""

from __future__ import annotations

from ipamd.settings.judges import (
    OFF,
    fixed_switch,
    idle,
    note,
    refused_as,
    switch,
    warning,
)
from ipamd.settings.peer_runtime import RUNTIME
from ipamd.settings.rows import Group, Judge, OnBad, Said, Setting, Values
from ipamd.settings.values import flag, one_of, optional, veth_prefix, whole

MTU_MIN, MTU_MAX = 576, 9001
"""aws-node's bounds: the least that every IPv4 host takes (RFC 791), a VPC's largest frame."""


def _egress(family: str, *, only_with_ipv6: bool, on: Said) -> Judge:
    """Egress of the other family; on a node of the same family the variable has no effect."""

    def judge(value: object, values: Values) -> Said | None:
        if values["ENABLE_IPv6"] is not only_with_ipv6:
            return note(f"has no effect: it is about {family} egress of other nodes' pods")
        return on if value else OFF

    return judge


POOL: tuple[Setting, ...] = (
    fixed_switch(
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE",
        Group.POOL,
        true=None,
        false=note("has no effect: without a watch of the node a cordoned one keeps its targets"),
        fixed=True,
        is_built=True,
        differs="always as if true, because the node object is not watched",
        meaning="Grow and shrink the pool while the node is unschedulable too.",
    ),
    fixed_switch(
        "ENABLE_IMDS_ONLY_MODE",
        Group.POOL,
        true=refused_as(
            "a pool from metadata alone, which is not built: set it to false and allow ec2 calls"
        ),
        false=OFF,
        fixed=False,
        chart="false",
        meaning="Never call the EC2 API; take the state from IMDS.",
    ),
)

ENI: tuple[Setting, ...] = (
    switch(
        "ENABLE_POD_ENI",
        Group.ENI,
        "Security groups for pods, by trunk and branch ENIs; vpc-cnid then asks the API server for "
        "pods.",
        chart="false",
        differs="the CNINode object that asks for the trunk ENI is not written: "
        "[security-groups.md](security-groups.md)",
    ),
    *(
        idle(
            f"ENI_CONFIG_{what.upper()}_DEF",
            Group.ENI,
            "VPC_IPAMD_ENICONFIG names the ENIConfig, the node object is not watched",
            f"The node's {what} that names its ENIConfig.",
            default="k8s.amazonaws.com/eniConfig",
        )
        for what in ("label", "annotation")
    ),
    Setting(
        name="POD_SECURITY_GROUP_ENFORCING_MODE",
        group=Group.ENI,
        default="strict",
        parse=one_of("strict", "standard"),
        on_bad=OnBad.FALL_BACK,
        range="strict, standard",
        meaning="How the traffic of pods with their own security groups is routed.",
    ),
)

INSTALLER = "install-cni reads it, and writes it into the CNI config"
"""An operator with a CNI config of their own says it there."""

WIRING: tuple[Setting, ...] = (
    Setting(
        name="ENABLE_V4_EGRESS",
        group=Group.WIRING,
        default="true",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        is_built=False,
        judge=_egress(
            "IPv4",
            only_with_ipv6=True,
            on=warning("is aws-node's default, but not built: IPv6 pods have no IPv4 egress"),
        ),
        fixed="false",
        meaning="IPv6 clusters: give pods a node-local IPv4 address for egress.",
    ),
    Setting(
        name="ENABLE_V6_EGRESS",
        group=Group.WIRING,
        default="false",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        is_built=False,
        judge=_egress(
            "IPv6",
            only_with_ipv6=False,
            on=refused_as("IPv6 egress of IPv4 pods, which is not built: set it to false"),
        ),
        fixed="false",
        meaning="IPv4 clusters: give pods a node-local IPv6 address for egress.",
    ),
    Setting(
        name="DISABLE_POD_V6",
        group=Group.WIRING,
        default="false",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        differs=INSTALLER,
        meaning="Disable IPv6 in pods by the tuning plugin.",
    ),
    Setting(
        name="ENABLE_BANDWIDTH_PLUGIN",
        group=Group.WIRING,
        default="false",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        differs=INSTALLER,
        meaning="Chain the bandwidth plugin.",
    ),
    Setting(
        name="AWS_VPC_K8S_CNI_VETHPREFIX",
        group=Group.WIRING,
        default="eni",
        chart="eni",
        parse=veth_prefix,
        on_bad=OnBad.REFUSE,
        range="1 to 4 characters; not eth, lo, vlan",
        differs=INSTALLER,
        meaning="First letters of host veths.",
    ),
    Setting(
        name="AWS_VPC_ENI_MTU",
        group=Group.WIRING,
        default="9001",
        chart="9001",
        parse=whole(MTU_MIN, MTU_MAX),
        on_bad=OnBad.REFUSE,
        range="576 to 9001; from 1280 with IPv6",
        meaning="MTU of every managed ENI; vpc-cnid reads it.",
    ),
    Setting(
        name="POD_MTU",
        group=Group.WIRING,
        default="",
        parse=optional(whole(MTU_MIN, MTU_MAX)),
        on_bad=OnBad.REFUSE,
        range="576 to 9001; from 1280 with IPv6",
        differs=INSTALLER,
        meaning="MTU of pods' links; unset: AWS_VPC_ENI_MTU.",
    ),
    idle(
        "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER",
        Group.WIRING,
        "rp_filter is always 2 on managed ENIs",
        "None in aws-node either.",
        is_built=True,
    ),
    idle(
        "ENABLE_NFTABLES",
        Group.WIRING,
        "nftables is always used",
        "None in aws-node either.",
        is_built=True,
    ),
)

PEER_TABLE: tuple[Setting, ...] = (*POOL, *ENI, *WIRING, *RUNTIME)
