"""Which pod sandboxes the container runtime has, asked by a process of its own (`runtime_child`).

A node may have more than one of the sockets; their lists are one only when all that are there
answer, since a sandbox that is missing in one may be another's. Nothing is started where no socket
is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHILD = "cni_shim.runtime_child"
LIMIT_SECONDS = 10.0
"""For the start, 0.1 s of a free processor, and the answers of two runtimes."""


class RuntimeUnseen(Exception):
    """No list could be had; the text says of which socket and why."""


class RuntimeList:
    """The sandboxes of this node's runtimes."""

    def __init__(self, sockets: tuple[Path, ...]) -> None:
        self._sockets = sockets

    def sandboxes(self) -> dict[str, bool]:
        """Whether each sandbox is ready, by id, whatever their state. Raises RuntimeUnseen."""
        sockets = [str(path) for path in self._sockets if path.is_socket()]
        if not sockets:
            names = ", ".join(map(str, self._sockets)) or "none is set"
            raise RuntimeUnseen(f"no socket of a runtime is there ({names})")
        return _understood(_asked(sockets))


def _asked(sockets: list[str]) -> str:
    """What the child wrote. An end of any other kind than its own is no list."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", CHILD, *sockets],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env={},
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeUnseen(f"{CHILD} did not end in {LIMIT_SECONDS:.0f} s") from None
    except OSError as e:
        raise RuntimeUnseen(f"{CHILD} could not be started: {e}") from e
    if done.returncode != 0:
        raise RuntimeUnseen(f"{CHILD} ended with {done.returncode}: {done.stderr[-500:].strip()}")
    return done.stdout


def _understood(text: str) -> dict[str, bool]:
    try:
        said = json.loads(text)
    except ValueError as e:
        raise RuntimeUnseen(f"{CHILD} wrote no JSON: {e}") from e
    match said:
        case {"sandboxes": dict() as found}:
            return {str(name): is_ready is True for name, is_ready in found.items()}
        case {"unseen": str() as why}:
            raise RuntimeUnseen(why)
    raise RuntimeUnseen(f"{CHILD} wrote neither sandboxes nor a reason")
