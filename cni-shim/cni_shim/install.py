"""Puts the plugin on a node, and keeps it there: the program behind `scripts/install-cni`.

Order, so that a runtime never meets half of it: the binaries first, each by rename in its own
directory (a runtime may be starting the old one; writing over it would fail with ETXTBSY); then
vpc-cnid is asked for STATUS; only when that is good the network configuration, by rename too, as
its appearance is what turns the node Ready. A file that is right already is not touched.

Called at a node's start by the DaemonSet's container `install` (which stays and puts back what
somebody took away) and by people. Exit status: 0 all is in place; 1 STATUS is not good, so that the
network configuration was not placed; 2 a setting, a directory or a source cannot be used; 3 all is
in place, but a runtime will take another configuration.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cni_shim import conflist
from cni_shim.heartbeat import ALIVE_NAME
from cni_shim.placing import place
from cni_shim.settings import DEFAULT_RUN_DIR, SettingsError

LAUNCHER_NAMES = ("vpc-cni", "vpc-cni-ipam")
"""The same program twice: the main plugin, and the one that ptp or bridge name as their IPAM."""

LOOPBACK = "loopback"
"""Without it containerd starts no sandbox at all."""

CONFLIST_NAME = "10-vpc-ipamd.conflist"
STATUS_SECONDS = 5.0
"""The launcher answers within 1 s; more means that the machine itself stands still."""

ALIVE_SECONDS = 60.0
"""vpc-cnid touches its file `alive` at least every 10 s, and whatever holds it up that long is not
over in the next second either."""

PAUSE_SECONDS = 1.0
TELL_SECONDS = 10.0
"""How often a wait says that it still waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes where."""

    launcher: Path  # the program to install
    plugins: Path  # where the image keeps the plugins that are chained
    bin_dir: Path
    conf_dir: Path
    conflist_name: str
    network: conflist.Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a round did and found."""

    placed: tuple[str, ...]  # paths that were written in this round
    status: str  # empty: good; else the plugin's own words
    winners: tuple[str, ...]  # files that a runtime takes before ours

    @property
    def exit_status(self) -> int:
        """See the module."""
        if self.status:
            return 1
        return 3 if self.winners else 0


class InstallError(Exception):
    """Something that waiting does not mend; the text says what was seen and what to do."""


def plan(environ: Mapping[str, str], launcher: Path, plugins: Path) -> Plan:
    """The plan of these settings. Raises SettingsError."""
    name = environ.get("VPC_IPAMD_CNI_CONF_NAME") or CONFLIST_NAME
    if "/" in name or not name.endswith(".conflist") or name.startswith("."):
        raise SettingsError(
            f"unusable settings: VPC_IPAMD_CNI_CONF_NAME={name!r} must be a file name that ends "
            "with .conflist"
        )
    return Plan(
        launcher=launcher,
        plugins=plugins,
        bin_dir=_directory(environ, "HOST_CNI_BIN_PATH", "/host/opt/cni/bin"),
        conf_dir=_directory(environ, "HOST_CNI_CONFDIR_PATH", "/host/etc/cni/net.d"),
        conflist_name=name,
        network=conflist.wanted(environ),
    )


def _directory(environ: Mapping[str, str], name: str, default: str) -> Path:
    path = Path(environ.get(name) or default)
    if not path.is_absolute():
        raise SettingsError(f"unusable settings: {name}={str(path)!r} must be an absolute path")
    return path


def install(plan: Plan, ask_status: Callable[[Path], str]) -> Outcome:
    """One round: binaries, STATUS, configuration. Raises InstallError."""
    placed = [*_place_launchers(plan), *_place_plugins(plan)]
    _require_chained(plan)
    status = ask_status(plan.bin_dir / LAUNCHER_NAMES[0])
    if not status and _place(
        plan.conf_dir / plan.conflist_name, conflist.render(plan.network), 0o644
    ):
        placed.append(plan.conf_dir / plan.conflist_name)
    return Outcome(
        placed=tuple(str(path) for path in placed),
        status=status,
        winners=conflist.winners(_names(plan.conf_dir), plan.conflist_name),
    )


def remove(plan: Plan) -> tuple[str, ...]:
    """Take away what `install` put there, the configuration first; chained plugins stay, as others
    may use them. The paths that went."""
    paths = [plan.conf_dir / plan.conflist_name, *(plan.bin_dir / name for name in LAUNCHER_NAMES)]
    gone = []
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as e:
            raise InstallError(f"cannot remove {path}: {e.strerror}") from e
        gone.append(str(path))
    return tuple(gone)


def _place_launchers(plan: Plan) -> list[Path]:
    program = _read(plan.launcher)
    targets = [plan.bin_dir / name for name in LAUNCHER_NAMES]
    return [target for target in targets if _place(target, program, 0o755)]


def _place_plugins(plan: Plan) -> list[Path]:
    """Plugins of others that we need and the node has not; one that it has is its own affair."""
    targets = [plan.bin_dir / name for name in (LOOPBACK, *plan.network.chained)]
    missing = [t for t in targets if not t.exists() and (plan.plugins / t.name).is_file()]
    return [t for t in missing if _place(t, _read(plan.plugins / t.name), 0o755)]


def _require_chained(plan: Plan) -> None:
    """A chain with a missing link fails every pod, also their removal."""
    missing = [n for n in (LOOPBACK, *plan.network.chained) if not (plan.bin_dir / n).is_file()]
    if missing:
        raise InstallError(
            f"{plan.bin_dir} has no {' and no '.join(missing)}, and neither has {plan.plugins}; "
            "install the reference CNI plugins (Debian: containernetworking-plugins), or turn off "
            "what chains them (VPC_IPAMD_CHAIN_PORTMAP, ENABLE_BANDWIDTH_PLUGIN, DISABLE_POD_V6)"
        )


def _place(target: Path, content: bytes, mode: int) -> bool:
    """See placing.place. Raises InstallError."""
    try:
        return place(target, content, mode)
    except OSError as e:
        raise InstallError(f"cannot write {target}: {e.strerror}") from e


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InstallError(f"cannot read {path}: {e.strerror}") from e


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(entry.name for entry in directory.iterdir())
    except OSError as e:
        raise InstallError(f"cannot list {directory}: {e.strerror}") from e


def ask_status(launcher: Path) -> str:
    """What the plugin says of itself by STATUS: empty for good, else its message. The very program
    that the runtime will start is asked, so that one which cannot run here shows."""
    environ = {"CNI_COMMAND": "STATUS", "CNI_PATH": str(launcher.parent)}
    run_dir = os.environ.get("VPC_IPAMD_RUN_DIR")
    if run_dir:
        environ["VPC_CNI_RUN_DIR"] = run_dir
    try:
        done = subprocess.run(
            [launcher],
            input=conflist.status_request(),
            env=environ,
            capture_output=True,
            timeout=STATUS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{launcher} did not answer STATUS in {STATUS_SECONDS:.0f} s"
    except OSError as e:
        raise InstallError(f"cannot start {launcher}: {e.strerror}") from e
    if done.returncode == 0:
        return ""
    return _message(done.stdout) or f"{launcher} ended with {done.returncode} and said nothing"


def alive_age(run_dir: Path, now_unix: float) -> float:
    """Seconds since vpc-cnid last went round; infinite where it never did."""
    try:
        return max(now_unix - (run_dir / ALIVE_NAME).stat().st_mtime, 0.0)
    except OSError:
        return math.inf


def _message(document: bytes) -> str:
    """`msg; details` of an error document, as runtimes show it."""
    try:
        decoded = json.loads(document)
        return "; ".join(str(decoded[key]) for key in ("msg", "details") if decoded.get(key))
    except (ValueError, AttributeError):
        return document.decode(errors="replace").strip()


def _until_good(plan: Plan, wait_seconds: float) -> Outcome:
    """Rounds until STATUS is good or the time is over; the last round's outcome."""
    began = told = time.monotonic()
    placed: list[str] = []
    while True:
        outcome = install(plan, ask_status)
        placed += outcome.placed
        now = time.monotonic()
        if not outcome.status or now - began >= wait_seconds:
            return Outcome(placed=tuple(placed), status=outcome.status, winners=outcome.winners)
        if now - told >= TELL_SECONDS:
            told = now
            _say(f"waiting for STATUS, {now - began:.0f} s so far: {outcome.status}")
        time.sleep(PAUSE_SECONDS)


def _stay(plan: Plan, every_seconds: float) -> None:
    """Put back what was taken away, for ever; say what changes."""
    told: set[str] = set()
    while True:
        try:
            outcome = install(plan, ask_status)
            wrong = {outcome.status, _shadowed(plan, outcome.winners)} - {""}
        except InstallError as e:
            outcome, wrong = None, {str(e)}
        for text in sorted(wrong - told):
            _say(text)
        for path in outcome.placed if outcome else ():
            _say(f"placed {path}")
        if told and not wrong:
            _say("all is well again")
        told = wrong
        time.sleep(every_seconds)


def _shadowed(plan: Plan, winners: tuple[str, ...]) -> str:
    if not winners:
        return ""
    return (
        f"runtimes take the first config by name, and {', '.join(winners)} in {plan.conf_dir} "
        f"comes before {plan.conflist_name}: remove it, or set VPC_IPAMD_CNI_CONF_NAME to a name "
        "that comes first (such as 00-vpc-ipamd.conflist)"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"install-cni: {text}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install-cni",
        description="Install the CNI plugin on this node: binaries, then, once vpc-cnid's STATUS "
        "is good, the network configuration.",
        epilog="Settings, by environment: HOST_CNI_BIN_PATH (/host/opt/cni/bin), "
        "HOST_CNI_CONFDIR_PATH (/host/etc/cni/net.d), VPC_IPAMD_CNI_CONF_NAME "
        f"({CONFLIST_NAME}), AWS_VPC_K8S_CNI_VETHPREFIX, POD_MTU or AWS_VPC_ENI_MTU, "
        "VPC_IPAMD_CHAIN_PORTMAP (true), ENABLE_BANDWIDTH_PLUGIN, DISABLE_POD_V6, "
        "VPC_IPAMD_RUN_DIR. Exit status: 0 in place, 1 STATUS is not good, 2 unusable settings, "
        "directory or source, 3 in place, but a runtime will take another configuration.",
    )
    parser.add_argument("--launcher", type=Path, required=True, help="the vpc-cni to install")
    parser.add_argument(
        "--plugins",
        type=Path,
        default=Path("/usr/lib/cni"),
        help="where loopback, portmap, bandwidth and tuning are, for nodes without (%(default)s)",
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for STATUS to be good (0)"
    )
    parser.add_argument(
        "--stay", type=float, metavar="SECONDS", help="go on for ever, looking this often"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--remove", action="store_true", help="take it all away, config first")
    what.add_argument("--status", action="store_true", help="only ask STATUS (a readiness probe)")
    what.add_argument(
        "--alive", action="store_true", help="only look whether vpc-cnid lives (a liveness probe)"
    )
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The `install-cni` program; its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.status:
            return _tell_wrong(ask_status(chosen.launcher))
        if chosen.alive:
            return _tell_wrong(_silence())
        wanted = plan(os.environ, chosen.launcher, chosen.plugins)
        if chosen.remove:
            return _tell_removed(remove(wanted), chosen.output)
        outcome = _until_good(wanted, chosen.wait)
    except (SettingsError, InstallError) as e:
        _say(str(e))
        return 2
    _tell(wanted, outcome, chosen.output)
    if chosen.stay is not None:
        _stay(wanted, chosen.stay)
    return outcome.exit_status


def _silence() -> str:
    run_dir = Path(os.environ.get("VPC_IPAMD_RUN_DIR") or DEFAULT_RUN_DIR)
    age = alive_age(run_dir, time.time())  # wall time, as file times are
    if age <= ALIVE_SECONDS:
        return ""
    return f"{run_dir / ALIVE_NAME} is absent or older than {ALIVE_SECONDS:.0f} s"


def _tell_wrong(text: str) -> int:
    if text:
        _say(text)
    return 1 if text else 0


def _tell_removed(gone: tuple[str, ...], output: str) -> int:
    if output == "json":
        sys.stdout.write(json.dumps({"removed": gone}) + "\n")
    else:
        sys.stdout.write("".join(f"removed {path}\n" for path in gone) or "nothing was there\n")
    return 0


def _tell(wanted: Plan, outcome: Outcome, output: str) -> None:
    if output == "json":
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()
        return
    for path in outcome.placed:
        _say(f"placed {path}")
    if outcome.status:
        _say(f"STATUS is not good, so {wanted.conflist_name} is not placed: {outcome.status}")
    elif not outcome.placed:
        _say("everything was in place")
    if outcome.winners:
        _say(_shadowed(wanted, outcome.winners))


if __name__ == "__main__":
    raise SystemExit(main())
