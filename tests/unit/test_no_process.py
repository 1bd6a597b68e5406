"""What the datapath says where the machine has no process or pipe left for a program it needs."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable

import pytest
from cni_shim.datapath import firewall, peer_host
from cni_shim.datapath.errors import DatapathError


@pytest.mark.parametrize("call", [firewall.read_table, firewall.remove, peer_host.look])
@pytest.mark.parametrize(
    "number", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM], ids=errno.errorcode.get
)
def test_a_program_that_cannot_be_started_is_the_datapaths_error(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], number: int
) -> None:
    """The threads that ask try again after it; any other error would end vpc-cnid."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(DatapathError, match="run nft") as caught:
        call()
    assert caught.value.errno == number
