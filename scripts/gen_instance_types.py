"""ipamd/data/instance_types.tsv on standard output, from DescribeInstanceTypes answers.

The answers are those that moto, the pinned base of the emulated EC2, carries; no cloud is asked.
Called by scripts/gen.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import sys
from pathlib import Path

from ipamd.instance_types import Table, from_answer, to_text

PACKAGE = "moto"
ANSWERS = "moto/ec2/resources/instance_types.json.gz"


def main() -> None:
    distribution = importlib.metadata.distribution(PACKAGE)
    packed = Path(str(distribution.locate_file(ANSWERS))).read_bytes()
    types = [from_answer(raw) for raw in json.loads(gzip.decompress(packed)).values()]
    origin = f"DescribeInstanceTypes, {len(types)} answers of {PACKAGE} {distribution.version}"
    sys.stdout.write(to_text(Table(origin=origin, types={one.name: one for one in types})))


if __name__ == "__main__":
    main()
