"""ARM in memory behind `ArmApi`'s methods, for the tests of the writing half: it allocates, checks
If-Match, takes its time, refuses and loses answers as azure.md says of the real one's documents and
recordings. On a virtual clock."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ipamd.errors import Busy, CloudError, NotFound, SubnetExhausted, Transient
from ipamd.model import EniId
from providers.azure.api import Answered, Operation
from providers.azure.settle import Clock

Body = dict[str, Any]

GROUP = "/subscriptions/s1/resourceGroups/Group1/providers"
VNET = f"{GROUP}/Microsoft.Network/virtualNetworks/vnet1"
SUBNET = f"{VNET}/subnets/pods"
NIC = f"{GROUP}/Microsoft.Network/networkInterfaces/Node-nic"
INSTANCE = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/Set1/virtualMachines/3"
INSTANCE_NIC = f"{INSTANCE}/networkInterfaces/Primary"
SECOND_NIC = f"{INSTANCE}/networkInterfaces/second"
NIC_ENI = EniId(NIC.lower())
INSTANCE_ENI = EniId(INSTANCE_NIC.lower())
SECOND_ENI = EniId(SECOND_NIC.lower())
ASG = f"{GROUP}/Microsoft.Network/applicationSecurityGroups/nodes"
MAX_CONFIGS = 256  # "Azure networking limits"


class VirtualClock:
    """Time that passes in sleeps only. `during` is what happens in the next ones, in order."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.during: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
            self.slept.append(seconds)
            happens = self.during.pop(0) if self.during else None
        if happens is not None:
            happens()

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep, chance=lambda: 0.0)


@dataclass
class _Running:
    ends: float
    finish: Callable[[], None]
    url: str
    error: tuple[str, str] | None = None


@dataclass
class MemoryArm:
    """`write_seconds`: how long a write takes. `failing`: how the next operations end: code, and
    what of it is applied all the same ("none", "all", or the number of new configurations); with
    the code "Canceled" they are, and do not say why."""

    clock: VirtualClock
    cidr: IPv4Network = field(default_factory=lambda: IPv4Network("10.0.0.0/24"))
    write_seconds: float = 3.0
    has_instance_etags: bool = True
    checks_capacity_late: bool = False
    calls: list[str] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    if_match: list[str] = field(default_factory=list)
    failing: list[tuple[str, str | int]] = field(default_factory=list)
    faults: dict[str, list[CloudError | Callable[[], None]]] = field(default_factory=dict)
    shown: Callable[[tuple[Body, ...]], tuple[Body, ...]] = lambda views: views  # of an instance
    collisions: int = 0  # PUTs while another operation was under way
    names_operations: bool = True  # in the answer of a PUT
    stays_moving: bool = False  # what was written stays Updating when its operation has ended
    lagging: int = 0  # reads after a PUT that show what was before it
    lost: list[str] = field(default_factory=list)  # "before" or "after" commit, for the next PUTs

    def __post_init__(self) -> None:
        self._etags = itertools.count(1)
        self._running: dict[str, _Running] = {}
        self._before: dict[str, Answered] = {}
        self._ended: dict[str, Operation] = {}
        self._lock = threading.RLock()
        self.resources: dict[str, Body] = {}
        self.views: dict[str, Body] = {}
        self.used: set[IPv4Address] = set()

    # What is there

    def add_nic(self, primary: str = "10.0.0.4", **properties: Any) -> Body:
        nic = {
            "id": NIC,
            "name": "Node-nic",
            "type": "Microsoft.Network/networkInterfaces",
            "location": "westeurope",
            "etag": self._etag(),
            "properties": {
                "provisioningState": "Succeeded",
                "macAddress": "00-0D-3A-31-45-48",
                "networkSecurityGroup": {"id": f"{GROUP}/nsg"},
                "ipConfigurations": [config("ipconfig1", primary, is_primary=True)],
                **properties,
            },
        }
        self.resources[NIC.lower()] = nic
        self.used.add(IPv4Address(primary))
        return nic

    def add_instance(self, *nics: str) -> Body:
        names = nics or ("Primary",)
        self.resources[INSTANCE.lower()] = {
            "id": INSTANCE,
            "name": "Set1_3",
            "instanceId": "3",
            "location": "westeurope",
            "sku": {"name": "Standard_D4s_v5"},
            **({"etag": self._etag()} if self.has_instance_etags else {}),
            "properties": {
                "provisioningState": "Succeeded",
                "vmId": "v",
                "hardwareProfile": {"vmSize": "Standard_D4s_v5"},
                "storageProfile": {"imageReference": {"id": "/x"}, "osDisk": {"name": "d"}},
                "networkProfileConfiguration": {
                    "networkInterfaceConfigurations": [_model_nic(name) for name in names]
                },
            },
        }
        for index, name in enumerate(names):
            address = str(self.cidr[4 + index])
            self.views[f"{INSTANCE}/networkInterfaces/{name}".lower()] = {
                "id": f"{INSTANCE}/networkInterfaces/{name}",
                "name": name,
                "properties": {
                    "provisioningState": "Succeeded",
                    "ipConfigurations": [config("ipconfig1", address, is_primary=True)],
                },
            }
            self.used.add(IPv4Address(address))
        return self.resources[INSTANCE.lower()]

    def put_config(self, eni_id: str, raw: Body) -> None:
        """Somebody puts a configuration there, unseen by its clients until they look."""
        where = self.views.get(eni_id) or self.resources[eni_id]
        where["properties"]["ipConfigurations"].append(copy.deepcopy(raw))
        if eni_id in self.views:
            self._model_of(eni_id)["properties"]["ipConfigurations"].append(
                {"name": raw["name"], "properties": {"subnet": {"id": SUBNET}}}
            )
            self._touch(INSTANCE.lower())
        else:
            self._touch(eni_id)
        address = raw["properties"].get("privateIPAddress", "")
        self.used |= set(_inside(address)) if address else set()

    def others_write(self, target: str, edit: Callable[[Body], None] = lambda body: None) -> None:
        edit(self.resources[target])
        self._touch(target)

    def others_end(self, target: str) -> None:
        """What others did to a machine that `stays_moving` is over."""
        if target not in self._running:
            self.resources[target]["properties"]["provisioningState"] = "Succeeded"
            self._touch(target)

    def forget_before(self) -> None:
        """Looks do not lag behind the writes that have been."""
        self._before = {}

    def drop_config(self, eni_id: str, address: str) -> None:
        """Somebody takes a configuration away."""
        where = self.views.get(eni_id) or self.resources[eni_id]
        listed = where["properties"]["ipConfigurations"]
        gone = next(raw for raw in listed if raw["properties"].get("privateIPAddress") == address)
        listed.remove(gone)
        self.used -= set(_inside(address))
        if eni_id in self.views:
            model = self._model_of(eni_id)["properties"]["ipConfigurations"]
            model[:] = [raw for raw in model if raw["name"] != gone["name"]]
        self._touch(INSTANCE.lower() if eni_id in self.views else eni_id)

    def held(self, eni_id: str) -> list[str]:
        """What a NIC has beside its primary, as text."""
        self._advance()
        where = self.views.get(eni_id) or self.resources[eni_id]
        listed = where["properties"]["ipConfigurations"]
        return [
            raw["properties"]["privateIPAddress"]
            for raw in listed
            if not raw["properties"].get("primary") and raw["properties"].get("privateIPAddress")
        ]

    def names(self, eni_id: str) -> list[str]:
        where = self.views.get(eni_id) or self.resources[eni_id]
        return [raw["name"] for raw in where["properties"]["ipConfigurations"]]

    @property
    def puts(self) -> int:
        return sum(call.startswith("put") for call in self.calls)

    # ArmApi

    def nic(self, nic_id: str) -> Answered:
        with self._lock:
            self._called("nic")
            return self._lagged(nic_id) or self._answer(nic_id)

    def instance(self, instance_id: str) -> Answered:
        with self._lock:
            self._called("instance")
            return self._lagged(instance_id) or self._answer(instance_id)

    def instance_nics(self, instance_id: str) -> tuple[Body, ...]:
        with self._lock:
            self._called("instance_nics")
            under = instance_id.lower() + "/"
            views = (copy.deepcopy(v) for k, v in self.views.items() if k.startswith(under))
            return self.shown(tuple(views))

    def put_nic(self, nic_id: str, body: Body, etag: str) -> Answered:
        with self._lock:
            return self._put("put_nic", nic_id.lower(), body, etag, self._take_nic)

    def put_instance(self, instance_id: str, body: Body, etag: str) -> Answered:
        with self._lock:
            return self._put("put_instance", instance_id.lower(), body, etag, self._take_instance)

    def operation(self, url: str) -> Operation:
        with self._lock:
            self._called("operation")
            if any(running.url == url for running in self._running.values()):
                return Operation(status="InProgress", retry_after_seconds=2.0)
            if url not in self._ended:
                raise NotFound("no such operation")
            return self._ended[url]

    # How it works

    def _called(self, call: str) -> None:
        self.calls.append(call)
        self._advance()
        faults = self.faults.get(call)
        fault = faults.pop(0) if faults else None
        if isinstance(fault, CloudError):
            raise fault
        if fault is not None:
            fault()

    def _lagged(self, resource_id: str) -> Answered | None:
        old = self._before.get(resource_id.lower())
        if old is None or not self.lagging:
            return None
        self.lagging -= 1
        return copy.deepcopy(old)

    def _answer(self, resource_id: str) -> Answered:
        found = self.resources.get(resource_id.lower())
        if found is None:
            raise NotFound(f"{resource_id} was not found", code="ResourceNotFound")
        return Answered(body=copy.deepcopy(found), etag=found.get("etag", ""))

    def _put(
        self,
        call: str,
        target: str,
        body: Body,
        etag: str,
        take: Callable[[str, Body, str], None],
    ) -> Answered:
        self._called(call)
        self.bodies.append(copy.deepcopy(body))
        self.if_match.append(etag)
        lost = self.lost.pop(0) if self.lost else ""
        if lost == "before":
            raise Transient("connection reset", code="ConnectionReset")
        current = self.resources[target]
        if etag and etag != current.get("etag"):
            raise Busy("stale", code="PreconditionFailed")
        if target in self._running:
            self.collisions += 1
            raise Busy("locked", code="RetryableErrorDueToAnotherOperation", retry_after_seconds=2)
        url = f"https://arm.test/operations/{next(self._etags)}"
        self._before[target] = self._answer(target)
        take(target, copy.deepcopy(body), url)
        self._touch(target)
        if lost == "after":
            raise Transient("connection reset", code="ConnectionReset")
        answer = self._answer(target)
        named = url if self.names_operations else ""
        return Answered(body=answer.body, etag=answer.etag, operation_url=named)

    def _take_nic(self, target: str, body: Body, url: str) -> None:
        current = self.resources[target]
        before = {raw["name"].lower(): raw for raw in current["properties"]["ipConfigurations"]}
        listed = body["properties"]["ipConfigurations"]
        _check(listed, before)
        new = [raw for raw in listed if raw["name"].lower() not in before]
        healing = [
            raw
            for raw in listed
            if raw not in new
            and before[raw["name"].lower()]["properties"]["provisioningState"] == "Failed"
        ]
        leaving = before.keys() - {raw["name"].lower() for raw in listed}
        freed = {a for k in leaving for a in self._carried(before[k])}
        used = self.used - freed
        for raw in new:
            self._allocate(raw, used)
            raw["properties"]["provisioningState"] = "Updating"
        for raw in listed:
            default = "Updating" if raw in healing else "Succeeded"
            raw["properties"].setdefault("provisioningState", default)
        self.used = used
        read_only = {k: current[k] for k in ("id", "name", "type")}
        kept = {k: current["properties"][k] for k in ("macAddress",)}
        self.resources[target] = {
            **body,
            **read_only,
            "properties": {**body["properties"], **kept, "provisioningState": "Updating"},
        }

        def finish(applied: str | int = "all") -> None:
            keep = len(new) if applied == "all" else 0 if applied == "none" else int(applied)
            healed = healing if applied == "all" else []
            for raw in (*new[:keep], *healed):
                raw["properties"]["provisioningState"] = "Succeeded"
            for raw in (*new[keep:], *(one for one in healing if not healed)):
                raw["properties"]["provisioningState"] = "Failed"

        self._run(target, url, finish)

    def _take_instance(self, target: str, body: Body, url: str) -> None:
        current = self.resources[target]
        wanted: dict[str, list[Body]] = {}
        for nic in body["properties"]["networkProfileConfiguration"][
            "networkInterfaceConfigurations"
        ]:
            key = f"{target}/networkinterfaces/{nic['name'].lower()}"
            listed = wanted[key] = nic["properties"]["ipConfigurations"]
            shown = self.views[key]["properties"]["ipConfigurations"]
            _check(listed, {raw["name"].lower(): raw for raw in shown})
        if not self.checks_capacity_late:
            self._view_of(wanted, "all", set(self.used))
        changed = {**current["properties"], **body["properties"], "provisioningState": "Updating"}
        self.resources[target] = {**current, **body, "properties": changed}

        def finish(applied: str | int = "all") -> None:
            used = set(self.used)
            views = self._view_of(wanted, applied, used)
            for key, listed in views.items():
                self.views[key]["properties"]["ipConfigurations"] = listed
            self.used = used

        self._run(target, url, finish)

    def _view_of(
        self, wanted: dict[str, list[Body]], applied: str | int, used: set[IPv4Address]
    ) -> dict[str, list[Body]]:
        """What the NICs show once the model is as wanted; `used` is brought up to date."""
        made: dict[str, list[Body]] = {}
        if applied == "none":
            return made
        room = 10**6 if applied == "all" else int(applied)
        for key, listed in wanted.items():
            shown = {
                raw["name"].lower(): raw
                for raw in self.views[key]["properties"]["ipConfigurations"]
            }
            gone = shown.keys() - {raw["name"].lower() for raw in listed}
            used -= {a for k in gone for a in self._carried(shown[k])}
            made[key] = []
            for raw in listed:
                old = shown.get(raw["name"].lower())
                if old is not None:
                    made[key].append(old)
                elif room:
                    room -= 1
                    made[key].append(self._allocate(copy.deepcopy(raw), used))
                    made[key][-1]["properties"]["provisioningState"] = "Succeeded"
        return made

    def _run(self, target: str, url: str, finish: Callable[..., None]) -> None:
        failing = self.failing.pop(0) if self.failing else None

        def end() -> None:
            error, applied = failing or ("", "all")
            message = f"{error} happened"
            try:
                finish(applied)
            except SubnetExhausted as e:
                error, message = e.code, str(e)
            state = "Failed" if error else "Succeeded"
            ended = Operation(status=state, code=error, message=message if error else "")
            if error == "Canceled":  # for another write, which has ended since
                state, ended = "Succeeded", Operation(status="Canceled")
            shown = "Updating" if self.stays_moving else state
            self.resources[target]["properties"]["provisioningState"] = shown
            self._touch(target)
            self._ended[url] = ended

        self._running[target] = _Running(self.clock.now + self.write_seconds, end, url)
        if self.write_seconds == 0:
            self._advance()

    def _advance(self) -> None:
        for target, running in list(self._running.items()):
            if running.ends <= self.clock.now:
                del self._running[target]
                running.finish()

    def _allocate(self, raw: Body, used: set[IPv4Address]) -> Body:
        properties = raw["properties"]
        usable = [self.cidr[i] for i in range(4, self.cidr.num_addresses - 1)]
        if properties.get("privateIPAddressPrefixLength") == 28:
            blocks = itertools.islice(self.cidr.subnets(new_prefix=28), 1, None)
            block = next((b for b in blocks if set(b) <= set(usable) and not set(b) & used), None)
            if block is None:
                raise SubnetExhausted("no block", code="InsufficientCidrBlocks")
            properties["privateIPAddress"] = str(block)
            used |= set(block)
            return raw
        address = next((a for a in usable if a not in used), None)
        if address is None:
            said = (
                f"Subnet pods with address prefix {self.cidr} does not have enough capacity for "
                "1 IP addresses."
            )
            raise SubnetExhausted(said, code="SubnetIsFull")
        properties["privateIPAddress"] = str(address)
        used.add(address)
        return raw

    def _carried(self, raw: Body) -> list[IPv4Address]:
        text = raw["properties"].get("privateIPAddress", "")
        return _inside(text) if text else []

    def _touch(self, target: str) -> None:
        if target != INSTANCE.lower() or self.has_instance_etags:
            self.resources[target]["etag"] = self._etag()

    def _etag(self) -> str:
        return f'W/"{next(self._etags)}"'

    def _model_of(self, eni_id: str) -> Body:
        listed = self.resources[INSTANCE.lower()]["properties"]["networkProfileConfiguration"]
        name = eni_id.rsplit("/", 1)[-1]
        found: Body = next(
            nic for nic in listed["networkInterfaceConfigurations"] if nic["name"].lower() == name
        )
        return found


def config(name: str, address: str, *, is_primary: bool = False, state: str = "Succeeded") -> Body:
    """An ipConfiguration as a NIC shows it; "10.0.0.16/28" makes it a block."""
    properties: Body = {
        "provisioningState": state,
        "privateIPAddress": address,
        "privateIPAllocationMethod": "Dynamic",
        "privateIPAddressVersion": "IPv4",
        "primary": is_primary,
        "subnet": {"id": SUBNET},
    }
    if "/" in address:
        properties["privateIPAddressPrefixLength"] = 28
    if is_primary:
        properties["applicationSecurityGroups"] = [{"id": ASG}]
        properties["loadBalancerBackendAddressPools"] = [{"id": f"{GROUP}/pool"}]
    return {"id": f"/x/{name}", "name": name, "properties": properties}


def _model_nic(name: str) -> Body:
    return {
        "name": name,
        "properties": {
            "primary": name == "Primary",
            "ipConfigurations": [
                {
                    "name": "ipconfig1",
                    "properties": {
                        "primary": True,
                        "subnet": {"id": SUBNET},
                        "loadBalancerInboundNatPools": [{"id": f"{GROUP}/nat"}],
                    },
                }
            ],
        },
    }


def _check(listed: list[Body], before: dict[str, Body]) -> None:
    """What ARM refuses before it does anything."""
    names = [raw["name"].lower() for raw in listed]
    primaries = [raw for raw in listed if raw["properties"].get("primary")]
    if len(set(names)) < len(names) or len(primaries) != 1 or len(names) > MAX_CONFIGS:
        raise CloudError("bad configurations", code="InvalidRequestFormat")
    kept = {key for key, raw in before.items() if raw["properties"].get("primary")}
    if kept - set(names):
        raise CloudError("the primary", code="IpConfigDeleteNotSupported")


def _inside(text: str) -> list[IPv4Address]:
    return list(IPv4Network(text)) if "/" in text else [IPv4Address(text)]
