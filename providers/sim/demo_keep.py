"""What a demo that is left running can be poked with, as commands for another terminal."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from providers.sim.demo_world import DemoWorld

# The pid that the sandbox has outside; set before it is entered, for nobody inside can know it.
PID_VARIABLE = "VPC_IPAMD_DEMO_PID"


def how_to_poke(world: DemoWorld) -> str:
    """Commands that work as the same user from any directory; text for people."""
    pid = os.environ.get(PID_VARIABLE, str(os.getpid()))
    commands = [f"{_ipamctl()} status --socket {node.ipamd_socket}" for node in world.nodes]
    commands += [f"{_inside()}{command}" for command in _commands(world)]
    return "\n".join(
        [
            f"Left running in {world.directory}, the logs too.",
            f"Ctrl-C takes it down, and so does: kill {pid}",
            "From another terminal:",
            *(f"  {command}" for command in commands),
            "",
        ]
    )


def _commands(world: DemoWorld) -> list[str]:
    """What to run inside of the sandbox."""
    commands = ["ip netns"]
    for node in world.nodes:
        ip = f"ip{' -6' if world.mode.is_v6 else ''} -n {node.name}"
        commands += [f"{ip} rule", f"{ip} route show table all"]
    if world.nodes:
        enter = f"nsenter --net={world.nodes[0].netns_path}"
        commands.append(f"{enter} nft list ruleset")
        commands += _where_installed("curl", f"{enter} curl -s http://127.0.0.1:61679/v1/enis")
    for one in sorted(world.placements, key=lambda pod: pod.is_primary)[:1]:
        enter = f"nsenter --net={one.netns_path}"
        far = next(pod for pod in world.placements if pod.node != one.node)
        commands.append(f"{enter} ip -brief address")
        commands += _where_installed("ping", f"{enter} ping -c 1 {far.address}")
    return commands


def _where_installed(program: str, command: str) -> list[str]:
    return [command] if shutil.which(program) else []


def _inside() -> str:
    """What puts a command into the sandbox; nothing where we were started inside of one."""
    pid = os.environ.get(PID_VARIABLE)
    if pid is None:
        return ""
    # The outer process is in the sandbox's user, net and mount namespaces, not in its pid one. A
    # user namespace shows by its map: only the machine's own one maps all 2^32 - 1 ids
    # (user_namespaces(7)).
    length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2]
    user = "" if length == "4294967295" else "-U --preserve-credentials "
    return f"nsenter -t {pid} {user}-m -n "


def _ipamctl() -> str:
    """The program beside our Python, or the module where it is not installed as one."""
    script = Path(sys.executable).with_name("ipamctl")
    return str(script) if script.exists() else f"{sys.executable} -m ipamd.cli.main"
