"""How traffic leaves the node: aws-node's variables that reach vpc-cnid by `ipamd.host_policy`."""

from __future__ import annotations

from ipamd.settings.judges import switch
from ipamd.settings.rows import Group, OnBad, Setting
from ipamd.settings.values import mark, one_of, stripped

HOST: tuple[Setting, ...] = (
    switch(
        "AWS_VPC_K8S_CNI_EXTERNALSNAT",
        Group.WIRING,
        "Leave SNAT of pod traffic that leaves the VPC to a NAT gateway.",
        chart="false",
    ),
    Setting(
        name="AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
        group=Group.WIRING,
        default="",
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="IPv4 CIDRs, comma between",
        meaning="Destinations that are never SNATed, beside the VPC's own. An entry that is no "
        "IPv4 CIDR is left out, with a warning.",
    ),
    Setting(
        name="AWS_VPC_K8S_CNI_RANDOMIZESNAT",
        group=Group.WIRING,
        default="prng",
        chart="prng",
        parse=one_of("prng", "hashrandom", "none"),
        on_bad=OnBad.FALL_BACK,
        range="prng, hashrandom, none",
        meaning="How source ports of SNATed connections are chosen.",
    ),
    Setting(
        name="AWS_EXTERNAL_SERVICE_CIDRS",
        group=Group.WIRING,
        default="",
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="IPv4 CIDRs, comma between",
        meaning="Destinations that are always routed by the main table. An entry that is no IPv4 "
        "CIDR is left out, with a warning.",
    ),
    switch(
        "AWS_VPC_CNI_NODE_PORT_SUPPORT",
        Group.WIRING,
        "Let NodePort connections that come in by the primary ENI go back by it.",
        default="true",
        chart="true",
    ),
    Setting(
        name="AWS_VPC_K8S_CNI_CONNMARK",
        group=Group.WIRING,
        default="0x80",
        parse=mark,
        on_bad=OnBad.FALL_BACK,
        range="1 to 0xffffffff, none of the low seven bits",
        differs="ends the start where it has one of the bits 0x7f, which name a pod's ENI here",
        meaning="Mark and mask of connections that belong to the primary ENI.",
    ),
    switch(
        "DISABLE_TCP_EARLY_DEMUX",
        Group.WIRING,
        "Turn net.ipv4.tcp_early_demux off, so that kubelet's TCP probes reach pods with their own "
        "security groups.",
        differs="false leaves it as it is (aws-node's init container then turns it on)",
    ),
)
