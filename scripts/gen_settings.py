"""docs/settings.md from ipamd.settings.ROWS, on standard output. Called by scripts/gen."""

from __future__ import annotations

from ipamd.settings import ROWS
from ipamd.settings.rows import Group, Setting
from ipamd.settings.values import stripped

HEAD = """# Settings of ipamd

Made by `scripts/gen` from the tables in `ipamd/settings/`; do not edit. Every setting is an
environment variable, read once at the start. An empty value is the same as an unset one, but for
`VPC_IPAMD_PEER_SOCKET`. `ipamd --print-config [-o table|json]` shows what holds, and why. How the
pool's targets become calls: [pool.md](pool.md).

All variables of amazon-vpc-cni-k8s (aws-node) v1.23.1 are here; names, defaults and ranges are its
own unless the status says otherwise. What a start does with them:

- A value that cannot be used falls back to the default with a warning where aws-node does so, else
  it ends the start (exit status 2). All of them are listed at once.
- A value that asks for what is not built ends the start too, with what to do instead. It does not
  where the value is aws-node's own default: then one warning says what is missing, so that the
  environment of its stock chart starts this daemon.
- A value that turns something off that is never on here, or has no effect, is noted in one line.
- A name that looks like one of these, but is none, is warned about with the nearest known name.

`WARM_IP_TARGET` and `MINIMUM_IP_TARGET` come before `WARM_PREFIX_TARGET` (with prefixes) and
`WARM_ENI_TARGET` (without).

Defaults are ours; the value that aws-node's chart sets is in brackets where it differs.
"""

COLUMNS = """
| Variable | Default | Values | A bad value | Status | Meaning |
|---|---|---|---|---|---|
"""

TAIL = """
## Of other programs

vpc-cnid reads `VPC_IPAMD_RUN_DIR`, `VPC_IPAMD_LOG_LEVEL` and `VPC_IPAMD_CLOUD` as above,
`AWS_VPC_ENI_MTU` (576 to 9001; unset it is 9001 on EC2, and on Azure each NIC keeps the MTU that it
has) and `VPC_IPAMD_ROUTING_RULES` (`grouped`, the default, or `per-pod`, see
[routing-rules.md](routing-rules.md)); an unusable value ends the start. Its search for pods whose
DEL was lost has `VPC_IPAMD_LOST_DELS`, `VPC_IPAMD_CRI_SOCKETS`, `VPC_IPAMD_NETNS_DIRS` and
`VPC_IPAMD_CNI_CACHE_DIR` ([leaks.md](leaks.md)); `VPC_IPAMD_NPA_SOCKET` is where it calls the
network policy agent ([network-policy.md](network-policy.md)), and `VPC_IPAMD_PROC_SYS_NET` the
host's `/proc/sys/net` where the container's own is read-only. With `ENABLE_POD_ENI` it reads
`KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`, `CLUSTER_ENDPOINT` and
`VPC_IPAMD_SERVICE_ACCOUNT_DIR` ([security-groups.md](security-groups.md)). What belongs to pods
comes with the CNI config: `vethPrefix` (1 to 4 characters, default `eni`) and `mtu` (576 to 9001;
without it as [plugin.md](plugin.md) says). install-cni writes that config, and has
`VPC_IPAMD_CNI_CONF_NAME` and `VPC_IPAMD_CHAIN_PORTMAP` ([install.md](install.md)).

The launcher reads `VPC_CNI_RUN_DIR` (default `/run/vpc-ipamd`) and `VPC_CNI_DEADLINE_MS`, which can
only lower its deadlines. `ipamctl max-pods` reads `VPC_IPAMD_INSTANCE_TYPES`, a table of instance
types in place of the bundled one; ipamd does not.

The AWS SDK's own variables work as they do everywhere: `AWS_ENDPOINT_URL_EC2`,
`AWS_EC2_METADATA_SERVICE_ENDPOINT`, credentials. botocore's retries are off on purpose (an
AssignPrivateIpAddresses that is repeated after a lost answer assigns twice), so `AWS_MAX_ATTEMPTS`
and `AWS_RETRY_MODE` have no effect.
"""


def code(text: str) -> str:
    return f"`{text}`" if text else "empty"


def row(setting: Setting) -> str:
    default = code(setting.default)
    if setting.chart is not None and setting.chart != setting.default:
        default += f" ({code(setting.chart)})"
    cells = (
        code(setting.name),
        default,
        setting.range,
        "none is bad" if setting.parse is stripped else setting.on_bad.value,
        setting.status,
        setting.meaning,
    )
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    parts = [HEAD]
    for group in Group:
        rows = (row(setting) for setting in ROWS if setting.group is group)
        parts += [f"\n## {group.value}\n", COLUMNS, *rows]
    print("".join(parts) + TAIL, end="")


if __name__ == "__main__":
    main()
