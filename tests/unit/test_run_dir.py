"""The directory of sockets, queue and locks: ours alone, or nobody starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cni_shim import server
from cni_shim.settings import SettingsError as CnidSettingsError

from ipamd.errors import SettingsError
from ipamd.run_lock import only_one


def use_as_ipamd(path: Path) -> None:
    with only_one(path):
        pass


def use_as_cnid(path: Path) -> None:
    server._make_run_dir(path)


both = pytest.mark.parametrize("use", [use_as_ipamd, use_as_cnid], ids=["ipamd", "vpc-cnid"])


@both
def test_it_is_closed_to_others_whoever_made_it(
    tmp_path: Path, use: Callable[[Path], None]
) -> None:
    tmp_path.chmod(0o755)
    use(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@both
def test_another_users_directory_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], None]
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises((SettingsError, CnidSettingsError), match="belongs to uid"):
        use(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == []
