"""The older SDK pair as seen from a test: starts `old_client.py` and talks to it in lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("old_client.py")
# Made by scripts/_env from requirements/old-azure.txt, in the environment that runs the tests.
TREE = Path(sys.prefix) / "share" / "old-azure"


class Refused(Exception):
    """The service said no: `status`, `code` and `type`, the SDK's exception."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(str(said))
        self.status = said["status"]
        self.code = said["code"]
        self.type = said["type"]


class OldSdk:
    """A running `old_client.py`; one request at a time."""

    def __init__(self, url: str, ca_path: Path, token: str, subscription: str) -> None:
        if not TREE.exists():
            raise FileNotFoundError(f"{TREE} is missing; scripts/test makes it")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(TREE),
            "ARM_URL": url,
            "ARM_CA": str(ca_path),
            "ARM_TOKEN": token,
            "ARM_SUB": subscription,
        }
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """What the verb gave back; Refused when the service refused it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the older SDK ended while asked to {do}; its stderr says why"
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["done"]

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.communicate(timeout=10)
