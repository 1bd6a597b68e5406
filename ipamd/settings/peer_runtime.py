"""aws-node's variables of runtime, logging and Kubernetes; see `ipamd.settings.peer`."""

from __future__ import annotations

from ipamd.settings.judges import OFF, fixed_switch, idle, refused_as
from ipamd.settings.rows import Group, OnBad, Setting
from ipamd.settings.values import stripped

NO_KUBERNETES = "the Kubernetes API is not used yet"
STDERR = "logs go to stderr"

RUNTIME: tuple[Setting, ...] = (
    idle("MY_NODE_NAME", Group.RUNTIME, NO_KUBERNETES, "Name of the node object."),
    idle("MY_POD_NAME", Group.RUNTIME, NO_KUBERNETES, "Name of the agent's own pod."),
    idle(
        "CLUSTER_ENDPOINT",
        Group.RUNTIME,
        "vpc-cnid reads it, with ENABLE_POD_ENI",
        "URL of the API server, in place of the one that Kubernetes names.",
        is_built=True,
    ),
    fixed_switch(
        "ANNOTATE_POD_IP",
        Group.RUNTIME,
        true=refused_as("annotations on pods, which are not built: set it to false"),
        false=OFF,
        fixed=False,
        meaning="Write each pod's address into its annotation vpc.amazonaws.com/pod-ips.",
    ),
    idle(
        "AWS_VPC_K8S_CNI_LOG_FILE",
        Group.RUNTIME,
        STDERR,
        "Log file of the agent.",
        chart="/host/var/log/aws-routed-eni/ipamd.log",
        is_built=True,
    ),
    *(
        idle(
            f"AWS_VPC_K8S_{which}PLUGIN_LOG_FILE",
            Group.RUNTIME,
            "the plugin's daemon, vpc-cnid, writes to stderr" if not which else "no egress plugin",
            f"Log file of the {what}.",
            chart=None if which else "/var/log/aws-routed-eni/plugin.log",
            is_built=not which,
        )
        for which, what in (
            ("", "plugin"),
            ("EGRESS_V4_", "IPv4 egress plugin"),
            ("EGRESS_V6_", "IPv6 egress plugin"),
        )
    ),
    idle(
        "AWS_VPC_K8S_PLUGIN_LOG_LEVEL",
        Group.RUNTIME,
        "vpc-cnid has VPC_IPAMD_LOG_LEVEL",
        "Log level of the plugin.",
        chart="DEBUG",
        is_built=True,
    ),
    idle(
        "AWS_EC2_ENDPOINT",
        Group.RUNTIME,
        "the SDK's AWS_ENDPOINT_URL_EC2 says it",
        "URL of the EC2 API; in aws-node it seems to reach the session alone, not its EC2 client.",
        is_built=True,
    ),
    idle(
        "VPC_CNI_VERSION",
        Group.RUNTIME,
        "the version is built in",
        "Version in aws-node's user agent.",
        chart="v1.23.1",
        is_built=True,
    ),
    idle(
        "HOST_CNI_BIN_PATH",
        Group.RUNTIME,
        "install-cni reads it",
        "Where the plugin is installed.",
        default="/host/opt/cni/bin",
        is_built=True,
    ),
    idle(
        "HOST_CNI_CONFDIR_PATH",
        Group.RUNTIME,
        "install-cni reads it",
        "Where the CNI config is installed.",
        default="/host/etc/cni/net.d",
        is_built=True,
    ),
    *(
        idle(
            name,
            Group.RUNTIME,
            "cni-metrics-helper reads it, a program of its own",
            f"cni-metrics-helper: {meaning}.",
            default=default,
            is_built=True,
        )
        for name, default, meaning in (
            ("USE_CLOUDWATCH", "true", "send metrics to CloudWatch"),
            ("USE_PROMETHEUS", "false", "serve metrics for Prometheus"),
            ("METRIC_UPDATE_INTERVAL", "30", "seconds between two looks"),
            ("AWS_CLUSTER_ID", "", "dimension of the metrics"),
        )
    ),
    Setting(
        name="AWS_REGION",
        group=Group.RUNTIME,
        default="",
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="any",
        differs="the region comes from IMDS; cni-metrics-helper reads it",
        fixed="",
        meaning="Region of the metrics; injected into pods by several tools, so nothing is said.",
    ),
)
