"""What only Azure has: how ARM is reached, and what nobody without a subscription could find out.

The names begin with AZURE_; those of azure-identity (AZURE_TENANT_ID and the like) are read by that
library itself, see docs/azure.md.
"""

from __future__ import annotations

from ipamd.settings.rows import Group, OnBad, Setting
from ipamd.settings.values import (
    api_version,
    flag,
    optional,
    origin,
    stripped,
    whole,
)

AZURE: tuple[Setting, ...] = (
    Setting(
        name="AZURE_CLIENT_ID",
        group=Group.AZURE,
        default="",
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="any",
        meaning="Client id of the user-assigned identity whose rights are used; empty: the "
        "machine's system-assigned one. With AZURE_FEDERATED_TOKEN_FILE, of the workload identity.",
    ),
    Setting(
        name="AZURE_ARM_ENDPOINT",
        group=Group.AZURE,
        default="https://management.azure.com",
        parse=origin("https"),
        on_bad=OnBad.REFUSE,
        range="https://host or https://host:port",
        meaning="Where Azure Resource Manager answers: another one in Azure's sovereign clouds. "
        "Never without TLS, since the token that is sent there opens the subscription.",
    ),
    Setting(
        name="AZURE_POD_IDENTITY_AUTHORITY_HOST",
        group=Group.AZURE,
        default="http://169.254.169.254",
        parse=origin("http"),
        on_bad=OnBad.REFUSE,
        range="http://host or http://host:port",
        meaning="Where the metadata service answers: another place only where something stands in "
        "for it. azure-identity asks there for its token, by the same variable.",
    ),
    Setting(
        name="AZURE_WRITE_SECONDS",
        group=Group.AZURE,
        default="0",
        parse=whole(0, 600),
        on_bad=OnBad.REFUSE,
        range="0 to 600",
        meaning="How long a change of addresses takes here until pods can use it, to plan ahead "
        "by; 0: 5 on a virtual machine's NIC, 60 on a scale set.",
    ),
    Setting(
        name="AZURE_WRITE_INTERVAL_SECONDS",
        group=Group.AZURE,
        default="0",
        parse=whole(0, 600),
        on_bad=OnBad.REFUSE,
        range="0 to 600",
        meaning="How far apart this node's changes must be in the long run; 0: as Azure documents, "
        "15 on a scale set (4 a minute for each instance), no bound on a virtual machine's NIC.",
    ),
    Setting(
        name="AZURE_SCALE_SET_NIC_API_VERSION",
        group=Group.AZURE,
        default="",
        parse=optional(api_version),
        on_bad=OnBad.REFUSE,
        range="api-version such as 2018-10-01",
        meaning="With which api-version NICs of scale set instances are read; empty: the SDK's "
        "newest, and 2018-10-01 where that is refused.",
    ),
    Setting(
        name="AZURE_RESYNC_SECONDS",
        group=Group.AZURE,
        default="450",
        parse=whole(60, 86400),
        on_bad=OnBad.REFUSE,
        range="60 to 86400",
        meaning="About how often NICs are read without a reason: the time is drawn anew each time, "
        "a third shorter to a third longer.",
    ),
    Setting(
        name="AZURE_METADATA_HINTS",
        group=Group.AZURE,
        default="true",
        parse=flag,
        on_bad=OnBad.REFUSE,
        range="true or false",
        meaning="Let a change in the metadata service bring a look at ARM; it may lag for minutes, "
        "and a look is all that it ever causes.",
    ),
)
