"""scripts/bench/soak [--sandboxes N] [--wave N] [--seed N] [--python]

Sandboxes of a real containerd in waves, while launchers, vpc-cnid, ipamd, its cloud child and
containerd are killed at random; at the end ledger, kernel, cloud and runtime must tell one story.
Exit status: 0; 1 if anything was broken; 2 if it cannot run here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from providers.sim.lab import Lab
from tests.netns.conftest import why_no_namespaces
from tests.runtime.containerd import why_no_containerd
from tests.runtime.soak import WAVE, Soak
from tests.runtime.world import World, any_launcher

SUBNETS = ({"cidr": "10.0.0.0/23", "zone": "us-west-2a"},)
ENV = {"WARM_IP_TARGET": "8"}


def main(arguments: list[str]) -> int:
    """Run it once and print what happened."""
    wanted = _parsed(arguments)
    reason = why_no_namespaces() or why_no_containerd()
    if reason:
        sys.stderr.write(f"{reason}\n")
        return 2
    seed = wanted.seed if wanted.seed is not None else int.from_bytes(os.urandom(3), "big")
    directory = Path(tempfile.mkdtemp(prefix="vpc-soak-"))
    with Lab(directory, fabric_name="vpc-soak") as lab:
        lab.start(subnets=SUBNETS)
        world = World(
            lab,
            "soak0",
            launcher="python" if wanted.python else any_launcher(),
            env=ENV,
            is_tapped=False,
        )
        try:
            wrong = _soaked(world, seed=seed, count=wanted.sandboxes, wave=wanted.wave)
            if wrong:
                shutil.copy(world.containerd.daemon.log_path, directory)
        finally:
            world.close()
    if wrong:
        sys.stdout.write(f"the logs are in {directory}\n")
        return 1
    shutil.rmtree(directory)
    return 0


def _soaked(world: World, *, seed: int, count: int, wave: int) -> list[str]:
    world.start()
    world.site.settle(available=8)
    soak = Soak(world, seed=seed, wave=wave)
    began = time.monotonic()
    wrong: list[str] = []
    try:
        soak.run(count)
        world.agree()
        soak.end_all()
        world.agree()
    except AssertionError as e:
        wrong.append(str(e))
    wrong += soak.tally.violations
    end = "one story" if not wrong else "BROKEN\n" + "\n".join(wrong)
    sys.stdout.write(
        f"soak: seed {seed}, {time.monotonic() - began:.0f} s\n{soak.report()}\nend: {end}\n"
    )
    return wrong


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/soak", description=(__doc__ or "").split("\n", 2)[2].strip()
    )
    parser.add_argument("--sandboxes", type=int, default=200, help="how many in all (200)")
    parser.add_argument("--wave", type=int, default=WAVE, help=f"how many at once ({WAVE})")
    parser.add_argument("--seed", type=int, help="what chance is drawn from (a new one each time)")
    parser.add_argument("--python", action="store_true", help="the Python launcher, not the C one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
