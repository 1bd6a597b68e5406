"""One environment serves every program on a node: no program calls another's setting unknown."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ipamd import settings
from ipamd.settings.unknown import OTHERS, unknown_names

ROOT = Path(__file__).parents[2]
NAME = re.compile(r'"(VPC_(?:IPAMD|CNI)_[A-Z_]+)"')


def read_elsewhere() -> set[str]:
    """The names that stand as whole texts in the sources of the other programs."""
    sources = [*(ROOT / "cni-shim").rglob("*.py"), ROOT / "cni-shim/launcher/vpc_cni.c"]
    sources += (ROOT / "ipamd/cli").glob("*.py")
    return {name for path in sources for name in NAME.findall(path.read_text())}


def known() -> list[str]:
    return [row.name for row in settings.ROWS]


def test_ipamd_knows_the_settings_of_its_neighbours() -> None:
    assert unknown_names(read_elsewhere(), known()) == ()


def test_every_name_of_a_neighbour_is_read_by_one() -> None:
    assert OTHERS - read_elsewhere() == set()


def test_the_manifests_environment_starts_ipamd_without_a_word() -> None:
    documents = yaml.safe_load_all((ROOT / "scripts/deploy/vpc-ipamd.yaml").read_text())
    (data,) = [each["data"] for each in documents if each["kind"] == "ConfigMap"]
    result = settings.load(data)
    assert result is not None
    assert unknown_names(data, known()) == ()
