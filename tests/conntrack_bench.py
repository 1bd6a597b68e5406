"""The measurement behind `scripts/bench/conntrack`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address

from cni_shim.datapath import messages
from cni_shim.datapath.conntrack import Conntrack
from cni_shim.datapath.netlink import NetlinkSocket
from cni_shim.server import SWITCH_INTERVAL_SECONDS

PODS = 250
POD = [IPv4Address(f"10.0.{n % 4}.{3 + n // 4}") for n in range(PODS)]
QUESTIONS = 20  # netlink questions of one piece of work, about as many as an ADD has
PAUSE_SECONDS = 0.002
IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deletion. Times in milliseconds; `beside` is the work of another thread meanwhile."""

    entries: int
    addresses: int
    deleted: int
    wall: float
    cpu: float
    beside_median: float
    beside_p95: float


def fill(entries: int) -> None:
    """UDP connections of 250 pods to a service, as many of each."""
    lines = [
        f"-I -p udp -s {pod} -d 172.20.{n % 256}.10 --sport {1024 + n} --dport 53 "
        f"-r 10.0.9.53 -q {pod} --reply-port-src 53 --reply-port-dst {1024 + n} --timeout 600"
        for pod in POD
        for n in range(entries // PODS)
    ]
    subprocess.run(["conntrack", "-F"], check=True, capture_output=True)
    subprocess.run(
        ["conntrack", "-R", "-"], input="\n".join(lines) + "\n", text=True, check=True,
        capture_output=True,
    )  # fmt: skip


@contextmanager
def work_beside() -> Iterator[list[float]]:
    """A thread that asks the kernel for lo, 20 times in a row; how long each row took, in ms."""
    took: list[float] = []
    is_over = threading.Event()

    def work() -> None:
        sock = NetlinkSocket()
        while not is_over.wait(PAUSE_SECONDS):
            began = time.monotonic()
            for _ in range(QUESTIONS):
                sock.get([messages.get_link("lo")])
            took.append((time.monotonic() - began) * 1e3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        is_over.set()
        thread.join()


def measure(entries: int, addresses: int) -> Row:
    """Fill the table, delete what the first addresses have in it. No address: an idle second."""
    fill(entries)
    with work_beside() as took:
        time.sleep(0.05)
        took.clear()
        wall, cpu = time.monotonic(), time.process_time()
        if addresses:
            deleted = Conntrack().delete_entries_of(POD[:addresses])
        else:
            time.sleep(IDLE_SECONDS)
            deleted = 0
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        time.sleep(2 * PAUSE_SECONDS)
    beside = sorted(took)
    return Row(
        entries=entries,
        addresses=addresses,
        deleted=deleted,
        wall=round(wall * 1e3, 1),
        cpu=round(cpu * 1e3, 1),
        beside_median=round(statistics.median(beside), 2),
        beside_p95=round(beside[int(len(beside) * 0.95)], 2),
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/conntrack",
        description="Deleting connection tracking entries: its cost, and what verbs feel of it.",
        epilog="Exit status: 0; 2 if it cannot run here.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--entries", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    rows = [measure(n, k) for n in options.entries for k in (0, 1, 16, PODS)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("entries  addresses  deleted   wall ms    cpu ms  beside: median ms   p95 ms")
    for r in rows:
        print(f"{r.entries:7d}  {r.addresses or 'idle':>9}  {r.deleted:7d}  {r.wall:8.1f}  "
              f"{r.cpu:8.1f}  {r.beside_median:17.2f}  {r.beside_p95:7.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
