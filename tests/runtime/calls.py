"""The calls that a runtime made of a plugin, and how the next ones shall go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.shim.launchers import interpreter

SOURCE = Path(__file__).with_name("tap.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One start of a plugin by a runtime."""

    verb: str
    env: Mapping[str, str]
    stdin: Mapping[str, Any]
    pid: int
    order: int
    """Nanoseconds of the monotonic clock at its start."""

    @property
    def container_id(self) -> str:
        """CNI_CONTAINERID."""
        return self.env["CNI_CONTAINERID"]

    @property
    def has_netns(self) -> bool:
        """Whether CNI_NETNS names one."""
        return bool(self.env.get("CNI_NETNS"))

    @property
    def has_result(self) -> bool:
        """Whether the result of an ADD came with it."""
        return "prevResult" in self.stdin

    def __str__(self) -> str:
        netns = "netns" if self.has_netns else "no netns"
        return f"{self.verb} {netns}{' prevResult' if self.has_result else ''}"


class Tap:
    """A plugin in a runtime's folder that notes its calls. Several may stand in one chain."""

    def __init__(self, bin_dir: Path, name: str, plugin: Path | None) -> None:
        """`plugin` None: a chained plugin that passes on what it was given."""
        self.path = bin_dir / name
        self._folder = bin_dir / f"{name}.tap"
        (self._folder / "calls").mkdir(parents=True)
        if plugin is not None:
            (self._folder / "plugin").symlink_to(plugin)
        made = bin_dir / f".{name}"
        made.write_text(f"#!{interpreter()} -IS\n{SOURCE.read_text()}")
        made.chmod(0o755)
        made.rename(self.path)

    def calls(self, container_id: str = "") -> list[Call]:
        """All calls since the last `forget`, oldest first; those of one sandbox if named."""
        read = [json.loads(path.read_text()) for path in self._files()]
        made = [Call(**one) for one in read]
        return [c for c in made if container_id in ("", c.env.get("CNI_CONTAINERID"))]

    def said(self, container_id: str = "") -> list[str]:
        """The calls in a few words each."""
        return [str(call) for call in self.calls(container_id)]

    def forget(self) -> None:
        """Drop what was noted."""
        for path in self._files():
            path.unlink()

    @contextmanager
    def going_wrong(self, **plan: Mapping[str, Any]) -> Iterator[None]:
        """Calls inside go as planned: the verb's name to what `tap.misbehave` takes."""
        made = self._folder / ".plan"
        made.write_text(json.dumps(plan))
        made.rename(self._folder / "plan")
        try:
            yield
        finally:
            (self._folder / "plan").unlink()

    def remove(self) -> None:
        """Away with it."""
        shutil.rmtree(self._folder)
        self.path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(
            path for path in (self._folder / "calls").iterdir() if not path.name.startswith(".")
        )
