"""How pods are wired: aws-node's variables that reach vpc-cnid by `ipamd.host_policy`."""

from __future__ import annotations

from ipamd.settings.judges import note, switch
from ipamd.settings.rows import Group, Judge, OnBad, Said, Setting, Values
from ipamd.settings.values import flag, mark, one_of, optional, stripped


def _egress(family: str, *, only_with_ipv6: bool) -> Judge:
    """Egress of the other family; on a node of the same family the variable has no effect."""

    def judge(value: object, values: Values) -> Said | None:
        del value
        if values["ENABLE_IPv6"] is not only_with_ipv6:
            return note(f"has no effect: it is about {family} egress of other nodes' pods")
        return None

    return judge


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
    Setting(
        name="ENABLE_V4_EGRESS",
        group=Group.WIRING,
        default="true",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        judge=_egress("IPv4", only_with_ipv6=True),
        meaning="IPv6 clusters: give pods a node-local IPv4 address for egress.",
    ),
    Setting(
        name="ENABLE_V6_EGRESS",
        group=Group.WIRING,
        default="false",
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        judge=_egress("IPv6", only_with_ipv6=False),
        meaning="IPv4 clusters: give pods a node-local IPv6 address for egress.",
    ),
    switch(
        "ENABLE_POD_ENI",
        Group.ENI,
        "Security groups for pods, by trunk and branch ENIs; vpc-cnid then asks the API server for "
        "pods.",
        chart="false",
        differs="the CNINode object that asks for the trunk ENI is not written: "
        "[security-groups.md](security-groups.md)",
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
    Setting(
        name="NETWORK_POLICY_ENFORCING_MODE",
        group=Group.RUNTIME,
        default="",
        chart="standard",
        parse=optional(one_of("none", "standard", "strict")),
        on_bad=OnBad.REFUSE,
        range="none, standard, strict",
        meaning="How the network policy agent is told of new pods; none or unset: not at all.",
    ),
)
