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
)
from ipamd.settings.peer_runtime import RUNTIME
from ipamd.settings.rows import Group, OnBad, Setting
from ipamd.settings.values import flag, optional, veth_prefix, whole

MTU_MIN, MTU_MAX = 576, 9001
"""aws-node's bounds: the least that every IPv4 host takes (RFC 791), a VPC's largest frame."""


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
)

INSTALLER = "install-cni reads it, and writes it into the CNI config"
"""An operator with a CNI config of their own says it there."""

WIRING: tuple[Setting, ...] = (
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
        meaning="MTU of every managed ENI; vpc-cnid reads it. Unset on Azure: as each NIC has it.",
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
