"""Any sequence of changes, faults, outsiders and deaths: what the writer may never do.

`told` is what the core believes to have, as it would: what it was told, less what it gave back;
after a doubt or a death what a look shows.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipamd.cloud import AddressOutcome
from ipamd.errors import Busy, CloudError, SubnetExhausted, Throttled, Transient
from ipamd.model import IPAddress, IPNetwork
from providers.azure.names import is_ours
from tests.unit.azure.memory_arm import INSTANCE_ENI, NIC_ENI, config
from tests.unit.azure.test_writer_crash import Fuse, Killed, mortal
from tests.unit.azure.writing import Scene

Item = IPAddress | IPNetwork

refusals = st.sampled_from(
    [
        SubnetExhausted("full", code="SubnetIsFull"),
        Throttled("slow", code="TooManyRequests", retry_after_seconds=30),
        Busy("locked", code="RetryableError", retry_after_seconds=3),
        CloudError("bad", code="InvalidRequestFormat"),
    ]
)
endings = st.tuples(
    st.sampled_from(["SubnetIsFull", "OperationPreempted", "InternalExecutionError", "Odd"]),
    st.sampled_from(["none", "all", 1]),
)
troubles = st.one_of(
    st.none(),
    st.tuples(st.just("lost"), st.sampled_from(["before", "after"])),
    st.tuples(st.just("refused"), refusals),
    st.tuples(st.just("fails"), endings),
    st.tuples(st.just("stale"), st.integers(1, 3)),
    st.tuples(st.just("dies"), st.integers(0, 25)),
    st.tuples(st.just("lasts"), st.sampled_from([0.0, 60.0, 700.0])),
    st.tuples(st.just("lags"), st.integers(1, 5)),
    st.tuples(st.just("stays moving"), st.none()),
)


class Writing(RuleBasedStateMachine):
    @initialize(eni_id=st.sampled_from([NIC_ENI, INSTANCE_ENI]), has_etags=st.booleans())
    def begin(self, eni_id: Any, has_etags: bool) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.scene = Scene(self.directory / "writes.json", eni_id)
        self.tokens = (f"t{n}" for n in itertools.count())
        self.others = (IPv4Address("10.0.0.250") - n for n in range(20))
        self.foreign: set[str] = set()
        self.told: set[Item] = set()
        if eni_id == INSTANCE_ENI and not has_etags:
            self.scene.arm.has_instance_etags = False
            del self.scene.arm.resources[self.scene.target]["etag"]

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    @rule(
        add=st.integers(0, 4),
        blocks=st.integers(0, 1),
        removed=st.integers(0, 3),
        trouble=troubles,
        again=st.booleans(),
        named=st.booleans(),
    )
    def change(
        self, add: int, blocks: int, removed: int, trouble: Any, again: bool, named: bool
    ) -> None:
        self.scene.arm.names_operations = named
        leaving = sorted(self.told, key=str)[:removed]
        wanted = {
            "add": add,
            "add_prefixes": blocks,
            "remove": tuple(one for one in leaving if isinstance(one, IPAddress)),
            "remove_prefixes": tuple(one for one in leaving if isinstance(one, IPNetwork)),
            "token": next(self.tokens),
        }
        before = set(self.seen())
        outcome = self.applied(wanted, trouble)
        if outcome is None and again:
            outcome = self.applied(wanted, None)
        if isinstance(outcome, AddressOutcome):
            got = {*outcome.added, *outcome.added_prefixes}
            assert got <= set(self.seen())
            assert not (set(leaving) - got) & set(self.seen())  # what is freed may be had again
            self.told = self.told - set(leaving) | got
        elif outcome is None:  # in doubt, or another process by now
            self.settle()
            self.told = set(self.seen())
        else:
            self.settle()
            assert set(self.seen()) == before, "a refusal means that nothing was done"

    @rule()
    def outsider(self) -> None:
        self.settle()
        with contextlib.suppress(StopIteration):
            address = str(next(self.others))
            self.scene.arm.put_config(self.scene.eni_id, config(f"other-{address}", address))
            self.foreign.add(address)

    @rule(chance=st.integers(0, 9))
    def outsider_takes_away(self, chance: int) -> None:
        self.settle()
        taken = sorted(self.told, key=str)[chance : chance + 1]
        for one in taken:
            self.scene.arm.drop_config(self.scene.eni_id, str(one))
            self.told.remove(one)

    @rule(seconds=st.sampled_from([1, 100, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.scene.clock.now += seconds

    @invariant()
    def what_is_told_is_there_and_what_is_not_ours_stays(self) -> None:
        if not hasattr(self, "scene"):
            return
        held = set(self.scene.held())
        assert {str(one) for one in self.told} <= held
        assert self.foreign <= held
        assert self.told <= set(self.seen())
        assert self.scene.arm.collisions == 0

    def applied(self, wanted: dict[str, Any], trouble: Any) -> AddressOutcome | CloudError | None:
        """What came of it; None where nobody can tell."""
        scene = self.scene
        kind: str = trouble[0] if trouble else ""
        how: Any = trouble[1] if trouble else None
        arm, alive = scene.arm, scene.writer
        arm.write_seconds = how if kind == "lasts" else 3.0
        arm.lost = [how] if kind == "lost" else []
        arm.failing = [how] if kind == "fails" else []
        arm.faults = {}
        arm.forget_before()
        arm.lagging = how if kind == "lags" else 0
        arm.stays_moving = kind == "stays moving"
        if kind == "refused":
            arm.faults[scene.put] = [how]
        if kind == "stale" and arm.has_instance_etags:
            arm.faults[scene.put] = [lambda: arm.others_write(scene.target)] * how
        if kind == "dies":
            scene.writer = mortal(scene, Fuse(how))
        try:
            return scene.writer.apply(scene.change(**wanted))
        except (Transient, Killed):
            return None
        except CloudError as e:
            return e
        finally:
            scene.writer = alive if kind != "dies" else scene.new_writer()
            arm.lost, arm.failing, arm.faults = [], [], {}
            arm.lagging, arm.stays_moving = 0, False
            arm.others_end(scene.target)

    def settle(self) -> None:
        """As time does, and what looks at the end of what an earlier process began."""
        self.scene.clock.now += 2000
        self.scene.held()
        self.scene.writer.resume()
        self.scene.clock.now += 2000

    def seen(self) -> list[Item]:
        """What a look would show the core of ours."""
        scene = self.scene
        scene.held()
        hidden = scene.writer.hidden(scene.eni_id)
        target = scene.writer._target(scene.eni_id)
        nic = target.read().nics[scene.eni_id]
        return [
            one.carries
            for one in nic.shown.values()
            if is_ours(one.name) and one.key not in hidden
            if one.carries is not None and one.is_usable and one.key in nic.written
        ]


TestWriting = Writing.TestCase
TestWriting.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
