"""The settings that this daemon acts on, one row each; `ipamd.settings.peer` has the others.

Names and defaults are aws-node's where the meaning is shared (its code at v1.23.1; `chart` has what
its Helm chart sets); all that is only ours starts with VPC_IPAMD_.
"""

from __future__ import annotations

from ipamd.settings.azure import AZURE
from ipamd.settings.host import HOST
from ipamd.settings.judges import switch
from ipamd.settings.rows import Group, OnBad, Setting
from ipamd.settings.values import (
    WHOLE_MAX,
    absolute_path,
    flag,
    listen_address,
    object_name,
    one_of,
    stripped,
    tags,
    whole,
)

COOLING = "cooling addresses are counted apart, and it is a band while pods come and go"
"""How a warm target differs from aws-node's: docs/pool.md, "What is wanted"."""

POOL: tuple[Setting, ...] = (
    Setting(
        name="WARM_ENI_TARGET",
        group=Group.POOL,
        default="1",
        chart="1",
        parse=whole(0),
        on_bad=OnBad.FALL_BACK,
        range="from 0",
        differs=COOLING,
        meaning="Keep this many ENIs' worth of available addresses; 0: grow only when nothing is "
        "free. Without effect when WARM_IP_TARGET or MINIMUM_IP_TARGET is above 0, and with "
        "prefixes.",
    ),
    Setting(
        name="WARM_IP_TARGET",
        group=Group.POOL,
        default="0",
        parse=whole(0),
        on_bad=OnBad.FALL_BACK,
        range="from 0",
        differs=COOLING,
        meaning="Keep this many addresses available; 0 is the same as unset. Overrides "
        "WARM_ENI_TARGET and WARM_PREFIX_TARGET.",
    ),
    Setting(
        name="MINIMUM_IP_TARGET",
        group=Group.POOL,
        default="0",
        parse=whole(0),
        on_bad=OnBad.FALL_BACK,
        range="from 0",
        differs="not kept in a subnet that runs low",
        meaning="Never have fewer addresses than this in all, used and free; 0: no minimum. "
        "Overrides WARM_ENI_TARGET and WARM_PREFIX_TARGET.",
    ),
    Setting(
        name="WARM_PREFIX_TARGET",
        group=Group.POOL,
        default="0",
        chart="1",
        parse=whole(0),
        on_bad=OnBad.FALL_BACK,
        range="from 0",
        differs=COOLING,
        meaning="With prefixes only: keep this many /28 prefixes' worth of available addresses. "
        "Without effect when WARM_IP_TARGET or MINIMUM_IP_TARGET is above 0.",
    ),
    Setting(
        name="MAX_ENI",
        group=Group.POOL,
        default="-1",
        parse=whole(-WHOLE_MAX),
        on_bad=OnBad.FALL_BACK,
        range="any",
        meaning="At most this many ENIs on the node, the primary included; below 1 the instance "
        "type's limit holds.",
    ),
    switch(
        "ENABLE_PREFIX_DELEGATION",
        Group.POOL,
        "Assign /28 prefixes in place of single addresses. Ends the start unless one of "
        "WARM_PREFIX_TARGET, WARM_IP_TARGET and MINIMUM_IP_TARGET is above 0.",
        chart="false",
    ),
    Setting(
        name="IP_COOLDOWN_PERIOD",
        group=Group.POOL,
        default="30",
        parse=whole(0, 86400),
        on_bad=OnBad.REFUSE,
        range="0 to 86400",
        meaning="Seconds before a released address is given to another pod.",
    ),
    switch(
        "DISABLE_NETWORK_RESOURCE_PROVISIONING",
        Group.POOL,
        "Never create, attach or free ENIs or addresses; use what is attached.",
        chart="false",
    ),
    switch(
        "ENABLE_MULTI_NIC",
        Group.POOL,
        "Keep a pool on every network card; those of cards above 0 hold one address ready.",
        chart="false",
        differs="a pod cannot ask for further interfaces by annotation yet",
    ),
)

ENI: tuple[Setting, ...] = (
    switch(
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
        Group.ENI,
        "Pods live on ENIs in the subnet and security groups of an ENIConfig; the primary ENI "
        "carries none.",
        chart="false",
        differs="the ENIConfig comes from VPC_IPAMD_ENICONFIG_FILE, not from the cluster yet",
    ),
    switch(
        "ENABLE_SUBNET_DISCOVERY",
        Group.ENI,
        "Create ENIs in any subnet of the zone that its tags allow, not only in the primary ENI's.",
        default="true",
        chart="true",
    ),
    Setting(
        name="CLUSTER_NAME",
        group=Group.ENI,
        default="",
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="any",
        meaning="Tags created ENIs with cluster.k8s.amazonaws.com/name and "
        "eks:eni:owner=amazon-vpc-cni; matched against the cluster tags of subnets.",
    ),
    Setting(
        name="ADDITIONAL_ENI_TAGS",
        group=Group.ENI,
        default="{}",
        chart="{}",
        parse=tags,
        on_bad=OnBad.FALL_BACK,
        range="JSON object of texts",
        meaning="Further tags on created ENIs. Keys that contain k8s.amazonaws.com are left out, "
        "with a warning.",
    ),
    switch(
        "MANAGE_UNTAGGED_ENI",
        Group.ENI,
        "An attached ENI without our instance tag is managed too.",
        default="true",
    ),
    switch(
        "DISABLE_LEAKED_ENI_CLEANUP",
        Group.ENI,
        "true forces VPC_IPAMD_ORPHAN_CLEANUP off.",
        differs="the cleanup is off unless VPC_IPAMD_ORPHAN_CLEANUP=true",
    ),
)

FAMILY: tuple[Setting, ...] = (
    switch(
        "ENABLE_IPv4",
        Group.WIRING,
        "IPv4 pods. Exactly one of ENABLE_IPv4 and ENABLE_IPv6 must be true.",
        default="true",
        chart="true",
        differs="unset it is true unless ENABLE_IPv6 is true (aws-node's code: false)",
    ),
    switch(
        "ENABLE_IPv6",
        Group.WIRING,
        "IPv6 pods from a /80 prefix of the primary ENI. Needs ENABLE_PREFIX_DELEGATION=true and "
        "excludes custom networking.",
        chart="false",
    ),
)

RUNTIME: tuple[Setting, ...] = (
    Setting(
        name="AWS_VPC_K8S_CNI_BACKING_STORE",
        group=Group.RUNTIME,
        default="/var/run/aws-node/ipam.json",
        parse=absolute_path,
        on_bad=OnBad.REFUSE,
        range="absolute path",
        differs="read to take over from aws-node, and written by `ipamctl migrate back`; our own "
        "store is VPC_IPAMD_STORE_DIR",
        meaning="aws-node's checkpoint of its allocations.",
    ),
    Setting(
        name="INTROSPECTION_BIND_ADDRESS",
        group=Group.RUNTIME,
        default="127.0.0.1:61679",
        parse=listen_address,
        on_bad=OnBad.REFUSE,
        range="host:port or unix:/path",
        differs="of aws-node's pages there is /v1/enis alone; /metrics and /healthz are there too",
        meaning="Where /v1/enis is served.",
    ),
    Setting(
        name="AWS_VPC_K8S_CNI_LOGLEVEL",
        group=Group.RUNTIME,
        default="info",
        chart="DEBUG",
        parse=one_of("debug", "info", "warn", "error", "fatal"),
        on_bad=OnBad.FALL_BACK,
        range="debug, info, warn, error, fatal",
        differs="unset it is info; fatal is as error; vpc-cnid has VPC_IPAMD_LOG_LEVEL alone",
        meaning="The least severe log lines of ipamd, where VPC_IPAMD_LOG_LEVEL is not set.",
    ),
    switch(
        "DISABLE_INTROSPECTION",
        Group.RUNTIME,
        "true turns INTROSPECTION_BIND_ADDRESS off.",
        chart="false",
    ),
    switch(
        "DISABLE_METRICS",
        Group.RUNTIME,
        "true turns VPC_IPAMD_METRICS_PORT off, and with it /healthz there.",
        chart="false",
    ),
    Setting(
        name="HTTP_TIMEOUT",
        group=Group.RUNTIME,
        default="10",
        parse=whole(10, 300),
        on_bad=OnBad.FALL_BACK,
        range="10 to 300",
        meaning="Seconds before one cloud API call is given up.",
    ),
)


def _path(name: str, meaning: str, **more: str) -> Setting:
    return Setting(
        name=name,
        group=Group.OURS,
        default=more.get("default", ""),
        parse=absolute_path,
        on_bad=OnBad.REFUSE,
        range="absolute path",
        meaning=meaning,
        means_something_empty=name == "VPC_IPAMD_PEER_SOCKET",
    )


OURS: tuple[Setting, ...] = (
    Setting(
        name="VPC_IPAMD_MAX_PODS",
        group=Group.OURS,
        default="0",
        parse=whole(0, 5000),
        on_bad=OnBad.REFUSE,
        range="0 to 5000",
        meaning="Never hold more addresses in use or ready than this; 0: what the instance type's "
        "ENIs can carry.",
    ),
    _path(
        "VPC_IPAMD_TARGETS_FILE",
        "File of NAME=value lines that override WARM_ENI_TARGET, WARM_IP_TARGET, "
        "MINIMUM_IP_TARGET, WARM_PREFIX_TARGET, MAX_ENI and VPC_IPAMD_MAX_PODS on this node, "
        "without a restart; empty: none.",
    ),
    _path(
        "VPC_IPAMD_ENICONFIG_FILE",
        "File of ENIConfig manifests (YAML or JSON) for AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG.",
    ),
    Setting(
        name="VPC_IPAMD_ENICONFIG",
        group=Group.OURS,
        default="default",
        parse=object_name,
        on_bad=OnBad.REFUSE,
        range="name of a Kubernetes object",
        meaning="Name of this node's ENIConfig in VPC_IPAMD_ENICONFIG_FILE.",
    ),
    Setting(
        name="VPC_IPAMD_ORPHAN_CLEANUP",
        group=Group.OURS,
        default="false",
        parse=flag,
        on_bad=OnBad.REFUSE,
        range="true or false",
        meaning="Delete ENIs of this cluster that are attached nowhere. Forced off by "
        "DISABLE_LEAKED_ENI_CLEANUP, ENABLE_IPv6 and DISABLE_NETWORK_RESOURCE_PROVISIONING.",
    ),
    _path(
        "VPC_IPAMD_PEER_SOCKET",
        "The start is refused while aws-node's agent answers here, or on 127.0.0.1:50051 as before "
        "v1.23.0; empty: do not look.",
        default="/var/run/aws-node/ipamd.sock",
    ),
    _path(
        "VPC_IPAMD_CNI_BACKEND_SOCKET",
        "Serve aws-node's plugin (rpc.CNIBackend) on this unix socket; empty: off.",
    ),
    Setting(
        name="VPC_IPAMD_METRICS_PORT",
        group=Group.OURS,
        default="61678",
        parse=whole(0, 65535),
        on_bad=OnBad.REFUSE,
        range="0 to 65535",
        meaning="Port of /metrics and /healthz on all addresses of the node; 0 turns them off.",
    ),
    _path(
        "VPC_IPAMD_RUN_DIR",
        "Directory of the sockets (ipamd.sock, ipamd-verbs.sock) and the lock; vpc-cnid's too.",
        default="/run/vpc-ipamd",
    ),
    _path(
        "VPC_IPAMD_STORE_DIR",
        "Directory of the store (ipamd.db); empty: VPC_IPAMD_RUN_DIR. Keep it on a tmpfs.",
    ),
    Setting(
        name="VPC_IPAMD_CLOUD",
        group=Group.OURS,
        default="aws",
        parse=one_of("aws", "azure"),
        on_bad=OnBad.REFUSE,
        range="aws, azure",
        meaning="Which cloud the node runs in.",
    ),
    Setting(
        name="VPC_IPAMD_LOG_LEVEL",
        group=Group.OURS,
        default="info",
        parse=one_of("debug", "info", "warning", "error"),
        on_bad=OnBad.REFUSE,
        range="debug, info, warning, error",
        meaning="The least severe log lines that are written.",
    ),
)

TABLE: tuple[Setting, ...] = (*POOL, *ENI, *FAMILY, *HOST, *RUNTIME, *OURS, *AZURE)
