"""Launcher and vpc-cnid of two versions: each direction, with frames as they were recorded.

Protocol 1 is the only one so far. Its frames are written out here byte by byte, so that a change of
`frames` cannot change what an installed launcher of that version sends; protocol 2 is made up.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from pathlib import Path

import pytest
from cni_shim import frames
from cni_shim.delete_queue import DeleteQueue
from cni_shim.spec import AttachmentKey

from tests.shim.fake_daemon import answer_header, fake_daemon, sending
from tests.shim.launchers import Launcher
from tests.shim.real_server import Node
from tests.shim.test_matrix import env_of, stdin_of

ENV = b"CNI_COMMAND=DEL\0CNI_CONTAINERID=c1\0CNI_IFNAME=eth0\0CNI_PATH=/opt/cni/bin\0"
STDIN = b'{"cniVersion":"1.0.0","name":"net"}'
HEADER = (
    b"VCNI"
    b"\x01\x00"  # protocol
    b"\x00\x00"  # flags: no fd
    b"\x10\x27\x00\x00"  # 10000 ms
    b"\x00\x00\x00\x00"  # no errno
    b"\x49\x00\x00\x00"  # the environment has 73 bytes
    b"\x23\x00\x00\x00"  # stdin has 35
)
FRAME_1 = HEADER + ENV + STDIN
FRAME_2 = FRAME_1[:4] + b"\x02\x00" + FRAME_1[6:]
SUCCESS_1 = b"VCNA\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


def exchanged(run_dir: Path, frame: bytes) -> bytes:
    """The whole answer of the vpc-cnid that serves there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(run_dir / "cni.sock"))
        connection.sendall(frame)
        answer = bytearray()
        # A reset, not an end: the rest of a frame that is refused has not been read.
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
    return bytes(answer)


def test_a_frame_of_protocol_1_is_served(node: Node) -> None:
    assert exchanged(node.run_dir, FRAME_1) == SUCCESS_1
    assert node.bench.diary == ["unwire nothing of "]


def test_the_launchers_send_protocol_1(launcher: Launcher) -> None:
    with fake_daemon(launcher.run_dir, sending(SUCCESS_1)) as daemon:
        assert launcher.run(env_of("DEL"), STDIN).status == 0
    assert daemon.calls[0].request.protocol == 1


def test_vpc_cnid_of_protocol_2_serves_launchers_of_1_in_1(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "PROTOCOL", 2)
    assert exchanged(node.run_dir, FRAME_1) == SUCCESS_1
    assert exchanged(node.run_dir, FRAME_2) == SUCCESS_1[:4] + b"\x02\x00" + SUCCESS_1[6:]


def test_both_launchers_work_with_vpc_cnid_of_protocol_2(
    launcher: Launcher, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "PROTOCOL", 2)
    finished = launcher.run(env_of("ADD"), stdin_of())
    assert json.loads(finished.stdout)["ips"]
    assert launcher.run(env_of("DEL"), stdin_of()).status == 0


@pytest.mark.parametrize(("spoken", "protocol"), [(1, 2), (1, 0), (2, 3), (2, 0), (3, 1)], ids=str)
def test_a_frame_of_another_protocol_is_refused_with_an_answer_in_vpc_cnids(
    node: Node, monkeypatch: pytest.MonkeyPatch, spoken: int, protocol: int
) -> None:
    """A launcher that is newer reads the answer, since it knows the protocol before its own."""
    monkeypatch.setattr(frames, "PROTOCOL", spoken)
    frame = FRAME_1[:4] + protocol.to_bytes(2, "little") + FRAME_1[6:]
    answer = exchanged(node.run_dir, frame)
    magic, theirs, status, stdout_bytes, _ = struct.unpack_from("<4sHHII", answer)
    assert (magic, theirs, status) == (b"VCNA", spoken, 1)
    error = json.loads(answer[16 : 16 + stdout_bytes])
    assert error["code"] == 11
    assert f"protocol {protocol} is unknown; this side speaks {spoken}" in error["details"]
    assert node.bench.diary == []


def test_a_launcher_prints_the_refusal_of_a_vpc_cnid_that_speaks_its_protocol(
    launcher: Launcher,
) -> None:
    refusal = b'{"code": 11, "msg": "no"}\n'
    answer = answer_header(status=1, stdout=len(refusal)) + refusal
    with fake_daemon(launcher.run_dir, sending(answer)):
        finished = launcher.run(env_of("DEL"), STDIN)
    assert (finished.status, finished.stdout) == (1, refusal)


def test_a_del_that_a_launcher_of_another_version_queued_is_done_by_its_name(
    run_dir: Path,
) -> None:
    queue = DeleteQueue(run_dir)
    (run_dir / "delete-queue" / "c1,eth0").write_bytes(FRAME_2 + b"and more")
    (entry,) = queue.entries()
    assert entry.key == AttachmentKey(container_id="c1", ifname="eth0")
    assert not (run_dir / "delete-queue" / "damaged").exists()
