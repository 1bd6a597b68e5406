"""`scripts/demo` and `ipamctl demo`: the main job on an emulated cloud, shown and checked.

Exit status: 0 every check is ok, 1 one failed, 77 no sandbox can be made here, 128 + n ended by
signal n. Outside of the sandbox the program only starts itself again inside it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from providers.sim import (
    demo_azure,
    demo_azure_modes,
    demo_break,
    demo_ec2_modes,
    demo_end,
    demo_keep,
    demo_kill,
    demo_kinds,
    demo_steps,
    demo_text,
)
from providers.sim.demo_azure import AzureSide
from providers.sim.demo_ec2 import Ec2Side
from providers.sim.demo_modes import Mode
from providers.sim.demo_run import Check, Step, run_steps, skipped, worded
from providers.sim.demo_world import ROOT, CloudSide, DemoWorld, is_inside_sandbox

Steps = tuple[Step[DemoWorld], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is shown of one cloud: how it may be shown, the first being meant where none is named,
    and the steps up to where `--keep` waits, and from there."""

    side: type[CloudSide]
    modes: tuple[Mode, ...]
    beginning: Steps
    end: Steps

    @property
    def steps(self) -> Steps:
        """All of them."""
        return (*self.beginning, *self.end)

    def mode(self, name: str) -> Mode | None:
        """The mode of that name, the first if empty; None if there is none."""
        return next((one for one in self.modes if name in ("", one.name)), None)


def _script(side: type[CloudSide], modes: tuple[Mode, ...], beginning: Steps, end: Steps) -> Script:
    """The steps in the words of the cloud."""
    words = asdict(side.words)
    return Script(
        side=side,
        modes=modes,
        beginning=tuple(worded(step, words) for step in beginning),
        end=tuple(worded(step, words) for step in end),
    )


SCRIPTS = {
    "aws": _script(
        Ec2Side,
        demo_ec2_modes.MODES,
        (
            *demo_steps.STEPS,
            *demo_kinds.STEPS,
            *demo_break.cutting(demo_break.CUT),
            *demo_break.STATUSES,
        ),
        (*demo_end.DOWN, *demo_end.GONE),
    ),
    "azure": _script(
        AzureSide,
        demo_azure_modes.MODES,
        (
            *demo_steps.STEPS,
            *demo_kinds.STEPS,
            *demo_azure.PODS,
            *demo_break.SPOOFING,
            *demo_break.cutting(demo_break.CUT_OFF),
            *demo_kill.STEPS,
            *demo_break.STATUSES,
        ),
        (*demo_end.DOWN, *demo_azure.END, *demo_end.GONE),
    ),
}
"""By cloud."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """One of the signals that end the demo; unlike Exception no step can swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    script = SCRIPTS[arguments.cloud]
    mode = script.mode(arguments.mode)
    if mode is None:
        parser.error(f"--mode {arguments.mode} is not one of {arguments.cloud}'s")
    if not is_inside_sandbox():
        _enter_sandbox(sys.argv[1:] if argv is None else argv)
    out = sys.stderr if arguments.json else sys.stdout
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="vpc-ipamd-demo-"))
    world = DemoWorld(directory, arguments.launcher, mode, script.side())
    show = Show(out, world, script, keeps=arguments.keep)
    status = show.run()
    if arguments.json:
        sys.stdout.write(demo_text.document(show.checks))
        sys.stdout.flush()
    return status


class Show:
    """One run: the steps, in order, told as they happen. `checks` is complete after `run`."""

    def __init__(self, out: IO[str], world: DemoWorld, script: Script, *, keeps: bool) -> None:
        self._out = out
        self._world = world
        self._script = script
        self._keeps = keeps
        self._began = time.monotonic()
        self.checks: list[Check] = []

    def run(self) -> int:
        """Do every step, whatever happens; the exit status."""
        status = 0
        try:
            self._steps(self._script.beginning)
            if self._keeps:
                self._keep()
            self._steps(self._script.end)
        except Interrupted as e:
            _ignore_signals()
            status = 128 + e.number
            self._give_up(signal.Signals(e.number).name)
        finally:
            _ignore_signals()  # the clean-up is short, and half of it would be worse than waiting
            self._world.close()
        self._say(demo_text.closing(self.checks, time.monotonic() - self._began))
        return status or int(not all(check.is_ok for check in self.checks))

    def _steps(self, steps: Sequence[Step[DemoWorld]]) -> None:
        for step, check in run_steps(steps, self._world, tuple(self.checks)):
            if check is None:
                number = len(self.checks) + 1
                self._say(demo_text.beginning(number, len(self._script.steps), step.name))
            else:
                self.checks.append(check)
                self._say(demo_text.ending(check))

    def _give_up(self, why: str) -> None:
        """Every step that has no check yet counts as failed."""
        self._say(f"\n{why}: cleaning up\n")
        missing = self._script.steps[len(self.checks) :]
        self.checks += [skipped(step, f"ended by {why}") for step in missing]

    def _keep(self) -> None:
        """Wait for a signal; it means "go on to the end", not "give up"."""
        try:
            self._say("\n" + demo_keep.how_to_poke(self._world) + "\n")
            while True:
                signal.pause()
        except Interrupted:
            self._say("\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _enter_sandbox(argv: Sequence[str]) -> None:
    """Replace this process by the sandbox, with the demo inside. Its outer process keeps our pid,
    which is what another terminal can enter the sandbox by."""
    os.environ[demo_keep.PID_VARIABLE] = str(os.getpid())
    sandbox = str(ROOT / "scripts" / "_sandbox")
    sys.stdout.flush()
    os.execv(sandbox, [sandbox, sys.executable, "-m", "providers.sim.demo", *argv])  # noqa: S606


def _launcher(text: str) -> str:
    """A kind of launcher, or the absolute path of a program: plugins start in /."""
    if text in {"c", "python"}:
        return text
    path = Path(text).absolute()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{path} is no program")
    return str(path)


def _summaries(script: Script) -> str:
    return ", ".join(f"{mode.name} ({mode.summary})" for mode in script.modes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Two nodes on an emulated cloud, with real daemons, pods and packets: makes"
        " them, looks at them, breaks one and takes everything down.",
        epilog="Exit status: 0 all checks ok, 1 one failed, 2 wrong options, 77 no sandbox can be"
        " made here.",
    )
    parser.add_argument(
        "--cloud", choices=SCRIPTS, default="aws", help="which cloud (default: %(default)s)"
    )
    parser.add_argument(
        "--mode",
        choices=[mode.name for script in SCRIPTS.values() for mode in script.modes],
        default="",
        help="how pods get addresses, the first if not given; "
        + "; ".join(f"{name}: {_summaries(script)}" for name, script in SCRIPTS.items()),
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on stdout; progress on stderr"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="before the end wait for Ctrl-C or SIGTERM, and say how to look around",
    )
    parser.add_argument(
        "--launcher",
        type=_launcher,
        metavar="c|python|FILE",
        help="which vpc-cni to use (default: c, or python where there is no C compiler)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
