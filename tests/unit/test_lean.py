"""What vpc-cnid does not carry in its memory."""

from __future__ import annotations

import subprocess
import sys

_IMPORTED = """
import sys
from cni_shim.lean import spare_memory
spare_memory()
import cni_shim.server
print(*(name for name, module in sys.modules.items() if module is not None))
"""


def test_vpc_cnid_loads_nothing_that_it_does_not_use() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}

    assert "structlog" in loaded  # it was vpc-cnid that was loaded
    assert not loaded & {
        "pyroute2",
        "boto3",
        "botocore",
        "ssl",
        "rich",
        "yaml",
        "ipamd",
        "providers",
    }


def test_the_program_starts_without_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cni_shim", "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, "vpc-cnid" in done.stdout) == (0, True), done.stderr
