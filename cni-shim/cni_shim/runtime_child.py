"""The process that asks container runtimes by the CRI for their sandboxes: one list, then it ends.

`python -I -m cni_shim.runtime_child SOCKET...`, started by `runtime_list`: grpc, which would be
10 MB of vpc-cnid for good, lives here for 0.1 s a minute (33 MB meanwhile). ListPodSandbox of
`runtime.v1`, as containerd 1.6 and later and CRI-O serve it.

Writes one JSON object to its standard output: `{"sandboxes": {id: is it ready}}`, or
`{"unseen": text}` that says of which socket and why. Exit status: 0 with either.
"""

from __future__ import annotations

import json
import os
import sys

from cni_shim.lean import spare_memory

if __name__ == "__main__":
    spare_memory()

import grpc
from cri_api import runtime_pb2 as cri
from cri_api import runtime_pb2_grpc as cri_grpc

ANSWER_SECONDS = 2.0
"""A list takes milliseconds. A runtime that is still starting is asked at the next look."""

_CHANNEL_OPTIONS = (
    # What the kubelet allows an answer of a runtime (pkg/kubelet/cri/remote, maxMsgSize).
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_http_proxy", 0),
)


class _Unseen(Exception):
    pass


def answer(sockets: list[str]) -> dict[str, object]:
    """The object to write. One socket that gives no list makes it none: what the others lack may
    be that one's."""
    found: dict[str, bool] = {}
    try:
        for path in sockets:
            found |= _ask(path)
    except _Unseen as e:
        return {"unseen": str(e)}
    return {"sandboxes": found}


def _ask(path: str) -> dict[str, bool]:
    with grpc.insecure_channel(f"unix:{path}", options=_CHANNEL_OPTIONS) as channel:
        stub = cri_grpc.RuntimeServiceStub(channel)
        try:
            reply = stub.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=ANSWER_SECONDS)
        except grpc.RpcError as e:
            raise _Unseen(f"{path}: {_said(e)}") from e
    if any(not sandbox.id for sandbox in reply.items):
        raise _Unseen(f"{path}: a sandbox without an id; is this a CRI socket?")
    return {s.id: s.state == cri.SANDBOX_READY for s in reply.items}


def _said(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return f"{error.code().name}: {error.details()}"


if __name__ == "__main__":
    os.nice(10)  # pods' verbs come first
    json.dump(answer(sys.argv[1:]), sys.stdout)
