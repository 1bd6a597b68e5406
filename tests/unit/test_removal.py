"""Deleting a link where no thread can be had for it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence

import pytest
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Request, delete_link
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.removal import LinkRemover


class Socket:
    """Keeps what it is told, and says no once if it has a reason."""

    def __init__(self, refusal: DatapathError | None) -> None:
        self.told: list[Request] = []
        self._refusal = refusal

    def execute(self, requests: Sequence[Request]) -> None:
        self.told += requests
        if self._refusal is not None:
            raise self._refusal


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def remove(monkeypatch: pytest.MonkeyPatch, refusal: DatapathError | None = None) -> list[Request]:
    """Remove link 7 through a kernel that answers so; what the kernel was told."""
    netlink, kernel = HostNetlink(), Socket(refusal)
    monkeypatch.setattr(netlink, "socket", lambda: kernel)
    notices = LinkNotices()
    try:
        LinkRemover(netlink, notices).remove(7)
    finally:
        notices.close()
        netlink.close()
    return kernel.told


@pytest.mark.usefixtures("no_threads")
def test_a_link_goes_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(monkeypatch) == [delete_link(7)]


@pytest.mark.usefixtures("no_threads")
def test_a_refusal_without_a_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatapathError, match="EPERM"):
        remove(monkeypatch, DatapathError("delete link 7", errno.EPERM))


@pytest.mark.usefixtures("no_threads")
def test_a_link_that_is_gone_is_success_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remove(monkeypatch, DatapathError("delete link 7", errno.ENODEV)) == [delete_link(7)]
