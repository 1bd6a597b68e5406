"""Which SDK the cloud child loads: its own cloud's, and that one compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from providers.azure import compiled

_BUILT = """
import sys
from pathlib import Path
from ipamd.cloud_process import build_provider
from ipamd.plain_log import PlainLog
from ipamd.settings import load
settings = load({"VPC_IPAMD_CLOUD": sys.argv[1]}).settings
build_provider(sys.argv[1], settings, lambda call: None, PlainLog("error", process="cloud"))
print(*sys.modules)
"""


def loaded(cloud: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _BUILT, cloud],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("cloud", "own", "other"), [("aws", "botocore", "azure"), ("azure", "azure.core", "botocore")]
)
def test_the_child_loads_its_own_clouds_sdk_alone(cloud: str, own: str, other: str) -> None:
    modules = loaded(cloud)
    assert own in modules
    assert not [name for name in modules if name == other or name.startswith(f"{other}.")]
    assert not [name for name in modules if name.startswith("providers.sim")]


def test_the_daemon_itself_loads_neither() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ipamd.app; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert "ipamd" in modules
    assert not modules & {"azure", "botocore", "boto3", "msal", "providers"}


def test_the_sdk_of_a_virtual_environment_of_ours_is_compiled() -> None:
    assert compiled.has_bytecode()


def test_a_sdk_without_bytecode_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    assert not compiled.has_bytecode()
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(compiled, "SDK", ("azure.mgmt.nothing",))
    assert not compiled.has_bytecode()
