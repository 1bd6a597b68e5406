"""Two questions about instance types, one a process: `python -m providers.aws.instance_types WORD`.

Started by `ipamctl max-pods`, which holds no credentials itself. `own-type` prints this instance's
type from IMDS; `describe` prints the region and then a line a type, in the form of
`ipamd.instance_types`. Errors are one line on standard error and exit status 1.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import botocore.config
import botocore.exceptions

from ipamd.errors import CloudError
from ipamd.instance_types import from_answer, to_row
from ipamd.sizing import InstanceType
from providers.aws import ec2_model
from providers.aws.imds import Imds

TYPE_PATTERN = r"[a-z0-9-]+\.[a-z0-9-]+"


def describe_all(ec2: Any) -> list[InstanceType]:
    """Every type of the client's region, all pages. Raises botocore's errors."""
    pages = ec2.get_paginator("describe_instance_types").paginate()
    return [from_answer(raw) for page in pages for raw in page["InstanceTypes"]]


def own_type() -> str:
    """This instance's type. Raises CloudError when IMDS does not say."""
    imds = Imds()
    try:
        return imds.need("meta-data/instance-type", TYPE_PATTERN)
    finally:
        imds.close()


def _describe() -> list[str]:
    # Reading is safe to repeat, so botocore may: the provider proper turns its retries off.
    config = botocore.config.Config(
        connect_timeout=3.0,
        read_timeout=20.0,
        retries={"total_max_attempts": 4, "mode": "standard"},
        user_agent_extra="vpc-ipamd",
    )
    region = os.environ.get("AWS_REGION") or None
    ec2 = ec2_model.session().create_client("ec2", region_name=region, config=config)
    return [ec2.meta.region_name, *map(to_row, describe_all(ec2))]


def main(words: list[str]) -> int:
    """Answer one question."""
    try:
        match words:
            case ["own-type"]:
                lines = [own_type()]
            case ["describe"]:
                lines = _describe()
            case _:
                sys.stderr.write(
                    "usage: python -m providers.aws.instance_types own-type|describe\n"
                )
                return 2
    except CloudError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as e:
        sys.stderr.write(f"DescribeInstanceTypes: {e}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
