"""What vpc-cnid does not carry in its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
        "grpc",
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


_ASKING = """
from cni_shim.lean import spare_memory
spare_memory()
import cni_shim.server
from cni_shim.errors import CniError
try:
    cni_shim.server._pod_lookup().facts("default", "web", deadline_monotonic=1e9)
except CniError as e:
    import http.client
    print(http.client.HTTPSConnection, e)
"""


def test_a_node_whose_pods_have_their_own_enis_asks_the_api_server_with_tls(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKING],
        env={"KUBERNETES_SERVICE_HOST": "::1", "VPC_IPAMD_SERVICE_ACCOUNT_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert "FileNotFoundError" in done.stdout, done.stderr  # the token: all before it is there
