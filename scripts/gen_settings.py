"""docs/settings.md from ipamd.settings.TABLE, on standard output. Called by scripts/gen."""

from __future__ import annotations

from ipamd.settings_table import TABLE

HEAD = """# Settings of ipamd

Made by `scripts/gen` from the table in `ipamd/settings.py`; do not edit. Every setting is an
environment variable, read once at the start. An empty value is the same as an unset one.

| Variable | Default | An unusable value | Meaning |
|---|---|---|---|
"""

TAIL = """
vpc-cnid reads `VPC_IPAMD_RUN_DIR` and `VPC_IPAMD_LOG_LEVEL` as above, and `AWS_VPC_ENI_MTU`
(576 to 9001, default 9001; an unusable value ends the start). What belongs to pods comes with the
CNI config: `vethPrefix` (1 to 4 characters, default `eni`) and `mtu` (576 to 9001, default 9001).

The launcher reads `VPC_CNI_RUN_DIR` (default `/run/vpc-ipamd`) and `VPC_CNI_DEADLINE_MS`, which can
only lower its deadlines.

The AWS SDK's own variables work as they do everywhere: `AWS_ENDPOINT_URL_EC2`,
`AWS_EC2_METADATA_SERVICE_ENDPOINT`, credentials. botocore's retries are off on purpose (an
AssignPrivateIpAddresses that is repeated after a lost answer assigns twice), so `AWS_MAX_ATTEMPTS`
and `AWS_RETRY_MODE` have no effect.
"""


def main() -> None:
    rows = (
        f"| `{s.name}` | {f'`{s.default}`' if s.default else 'empty'} | {s.on_bad.value} "
        f"| {s.meaning} |"
        for s in TABLE
    )
    print(HEAD + "\n".join(rows) + "\n" + TAIL, end="")


if __name__ == "__main__":
    main()
