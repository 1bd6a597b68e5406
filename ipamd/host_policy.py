"""How traffic leaves the node, as ipamd tells vpc-cnid (pure): settings and cloud -> HostPolicy."""

from __future__ import annotations

from ipam_api.v1 import ipam_pb2 as pb

from ipamd.settings import Settings

ALWAYS_SNAT: dict[str, tuple[tuple[str, str, int], ...]] = {
    "aws": (),
    # Azure's DNS and wire server, and its metadata service, answer a VM's own address alone
    # (Azure docs, "What is IP address 168.63.129.16?"; Azure CNI's masquerade rules).
    "azure": (
        ("168.63.129.16/32", "udp", 53),
        ("168.63.129.16/32", "tcp", 53),
        ("169.254.169.254/32", "tcp", 80),
    ),
}
"""By cloud: network, protocol and port of what is SNATed even with external SNAT."""


def host_policy(settings: Settings) -> pb.HostPolicy:
    """The policy of these settings. Node-local egress is of the family that pods do not have."""
    return pb.HostPolicy(
        external_snat=settings.has_external_snat,
        exclude_snat_cidrs=[str(c) for c in settings.exclude_snat_cidrs],
        randomize_snat=settings.randomize_snat,
        node_port_support=settings.has_node_port_support,
        connmark=settings.connmark,
        external_service_cidrs=[str(c) for c in settings.external_service_cidrs],
        always_snat=[
            pb.SnatDestination(cidr=cidr, protocol=protocol, port=port)
            for cidr, protocol, port in ALWAYS_SNAT[settings.cloud]
        ],
        v4_egress=settings.has_v4_egress and not settings.has_ipv4,
        v6_egress=settings.has_v6_egress and not settings.has_ipv6,
        pod_eni_mode=settings.pod_eni_mode if settings.has_pod_eni else "",
        network_policy_mode=settings.network_policy_mode,
        disable_tcp_early_demux=settings.disables_tcp_early_demux,
    )
