# ruff: noqa: PTH104, PTH114, PTH118, PTH123 - pathlib would double the time of a call
"""Stands where a runtime looks for a plugin: notes each call, then becomes the plugin.

Installed by `calls.Tap` in the place of a plugin, beside a folder `<name>.tap` with:

    plugin    a link to the program it becomes; absent: a chained plugin that changes nothing
    plan      JSON, a verb's name to how the next calls of that verb go wrong, see `misbehave`
    calls/    one file per call

Standard library only, and little of it: this is on the path of every call, so paths are strings.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would double the time of a call
    from typing import Any

HERE = sys.argv[0] + ".tap"


def main() -> None:
    stdin = sys.stdin.buffer.read()
    verb = os.environ.get("CNI_COMMAND", "")
    note(verb, stdin)
    environment = misbehave(planned(verb))
    plugin = os.path.join(HERE, "plugin")
    if os.path.islink(plugin):
        become(plugin, stdin, environment)
    if verb == "ADD":
        json.dump(json.loads(stdin)["prevResult"], sys.stdout)


def note(verb: str, stdin: bytes) -> None:
    """One file, whole or not there; its name sorts by time."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("CNI_")}
    order, pid = time.monotonic_ns(), os.getpid()
    name = f"{order:020}-{pid}"
    call = {"verb": verb, "env": kept, "stdin": json.loads(stdin), "pid": pid, "order": order}
    hidden = os.path.join(HERE, "calls", "." + name)
    with open(hidden, "w") as file:
        json.dump(call, file)
    os.rename(hidden, os.path.join(HERE, "calls", name))


def planned(verb: str) -> dict[str, Any]:
    try:
        with open(os.path.join(HERE, "plan")) as file:
            found: dict[str, Any] = json.load(file).get(verb, {})
            return found
    except FileNotFoundError:
        return {}


def misbehave(plan: dict[str, Any]) -> dict[str, str]:
    """`prints` and `status`: the plugin's whole answer. `sleeps`: seconds before it begins.
    `env`: variables for the plugin, which are returned."""
    time.sleep(plan.get("sleeps", 0))
    if "status" in plan:
        sys.stdout.write(plan.get("prints", ""))
        sys.stdout.flush()
        os._exit(plan["status"])
    wanted: dict[str, str] = plan.get("env", {})
    return wanted


def become(plugin: str, stdin: bytes, environment: dict[str, str]) -> None:
    """The plugin gets our process: who kills it or waits for it meets the real one."""
    held = os.memfd_create("stdin")
    os.write(held, stdin)
    os.lseek(held, 0, os.SEEK_SET)
    os.dup2(held, 0)
    os.close(held)
    os.execve(plugin, [plugin], {**os.environ, **environment})


main()
