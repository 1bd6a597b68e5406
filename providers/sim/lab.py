"""The whole thing on one machine: the emulated cloud and nodes with real daemons on its fabric.

Used by the demo, the tests and the benchmarks. Everything it makes lives in one directory and in
the sandbox's namespaces; it refuses to start outside of scripts/_sandbox, which is what takes care
of the processes and namespaces should the lab itself be killed.

    with Lab(Path("/tmp/lab")) as lab:
        lab.start()
        node = lab.add_node("n1", env={"WARM_IP_TARGET": "4"})
        node.start()
        started = node.runtime([launcher], config).start_pod("web-0")

`Lab(..., cloud="azure")` is the same on an emulated Azure, where a node may be a scale set's
instance and have several NICs: `add_node("n1", kind="scale-set", nics=2)`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any, Self

from providers.sim import netns
from providers.sim.control import ControlClient
from providers.sim.lab_cloud import CLOUDS
from providers.sim.lab_node import (
    PATH,
    FurtherEni,
    Node,
    NodeIdentity,
    daemon_environment,
    make_node_namespace,
)
from providers.sim.lab_process import Daemon, LabError, checked_socket_path

DEFAULT_VPC = "10.0.0.0/16"
DEFAULT_SUBNET = "10.0.0.0/24"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vpc:
    """The VPC that the lab made; subnet ids in the order asked for."""

    vpc_id: str
    security_group_id: str
    subnet_ids: tuple[str, ...]


class Lab:
    """One emulated cloud and its nodes, as a context manager that leaves nothing behind."""

    def __init__(self, directory: Path, *, cloud: str = "aws", fabric_name: str = "vpc") -> None:
        """`directory` is made if missing; files in it stay after close, for whoever looks why.

        `cloud` is "aws" or "azure".
        """
        self.directory = directory.resolve()
        self.platform = CLOUDS[cloud]
        self.fabric_name = fabric_name
        self.nodes: dict[str, Node] = {}
        self.vpc: Vpc | None = None
        self._control: ControlClient | None = None
        self._cloud: Daemon | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def control(self) -> ControlClient:
        """The emulated cloud's control door: faults, delays, counters."""
        if self._control is None:
            raise LabError("the lab is not started")
        return self._control

    @property
    def cloud(self) -> Daemon:
        """The process of the emulated cloud."""
        if self._cloud is None:
            raise LabError("the lab is not started")
        return self._cloud

    @property
    def said(self) -> Mapping[str, Any]:
        """What the emulated cloud printed when it served: where it is to be found."""
        text = (self.directory / "cloud.ready").read_text(encoding="utf-8")
        said: dict[str, Any] = json.loads(text)
        return said

    def start(
        self,
        cidr: str = DEFAULT_VPC,
        subnets: Sequence[Mapping[str, Any]] = (),
        *,
        cidr_v6: str = "",
    ) -> Vpc:
        """Start the emulated cloud and make the VPC with its subnets.

        A subnet is {"cidr", "zone"}, one if none is named; with IPv6 also "cidr_v6", of the VPC's
        `cidr_v6`, and "assigns_v6": true for instances that shall have an address of it.
        """
        if os.environ.get("VPC_IPAMD_SANDBOX") != "1":
            raise LabError(
                "the lab runs inside scripts/_sandbox only: nothing would clean up after it"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        socket_path = checked_socket_path(self.directory / "control.sock")
        self._cloud = self._cloud_process()
        self._cloud.start()
        self._cloud.wait_ready(self._has_said_ready)
        self._control = ControlClient(socket_path)
        wanted = subnets or ({"cidr": DEFAULT_SUBNET, "zone": self.platform.zones[0]},)
        made: dict[str, Any] = self._control.call(
            "make_vpc", cidr=cidr, subnets=[dict(one) for one in wanted], cidr_v6=cidr_v6
        )
        self.vpc = Vpc(
            vpc_id=made["vpc_id"],
            security_group_id=made["security_group_id"],
            subnet_ids=tuple(subnet["subnet_id"] for subnet in made["subnets"]),
        )
        return self.vpc

    def add_node(
        self,
        name: str,
        *,
        instance_type: str = "",
        subnet: int = 0,
        env: Mapping[str, str] | None = None,
        kind: str = "",
        nics: int = 1,
    ) -> Node:
        """An instance, booted, its daemons not yet started. `subnet` counts those given to start.

        `env` adds to or overrides the daemons' environment (see `lab_node.daemon_environment`).
        What is not named is the cloud's usual; `kind` ("vm", "scale-set") and more than one of
        `nics` are Azure's.
        """
        if self.vpc is None:
            raise LabError("the lab is not started")
        machine = self.platform.machine(instance_type, kind, nics)
        run_dir = self.directory / name
        run_dir.mkdir(exist_ok=True)
        whole = daemon_environment(run_dir, self.platform.environment(self.said)) | dict(env or {})
        node = Node(name, make_node_namespace(name), run_dir, whole)
        self.nodes[name] = node
        said = self.control.call(
            "add_node",
            name=name,
            subnet_id=self.vpc.subnet_ids[subnet],
            netns_path=node.netns_path,
            **machine,
        )
        try:
            node.bring_up(identity_of(said, self.control.call("state"), self.platform.mtu))
        except LabError as e:
            e.add_note(f"the fabric says: {self.control.call('state')['fabric_failures'][-3:]}")
            raise
        return node

    def remove_node(self, name: str) -> None:
        """Terminate the instance: its ENIs vanish, its daemons and pods end."""
        node = self.nodes.pop(name)
        try:
            if node.identity is not None:
                self.control.call("remove_node", instance_id=node.identity.instance_id)
        finally:
            node.close()

    def close(self) -> None:
        """End every process and remove every namespace; the files in the directory stay."""
        for node in self.nodes.values():
            node.close()
        self.nodes.clear()
        if self._cloud is not None:
            self._cloud.close()
            netns.delete(self.fabric_name)  # the cloud does that itself, unless it was killed
            (self.directory / "control.sock").unlink(missing_ok=True)
        self._cloud = self._control = self.vpc = None

    def _cloud_process(self) -> Daemon:
        argv = [sys.executable, "-m", self.platform.server]
        return Daemon(
            "the emulated cloud",
            [*argv, "--dir", str(self.directory), "--fabric", self.fabric_name],
            env={"PATH": PATH, "HOME": str(self.directory)},
            netns_path="/proc/self/ns/net",
            log_path=self.directory / "cloud.log",
            stdout_path=self.directory / "cloud.ready",
        )

    def _has_said_ready(self) -> bool:
        """The cloud prints one line of JSON when it serves."""
        return (self.directory / "cloud.ready").read_text(encoding="utf-8").endswith("\n")


def identity_of(said: Mapping[str, Any], state: Mapping[str, Any], mtu: int | None) -> NodeIdentity:
    """What the cloud answered to `add_node`, with what its `state` has of the instance's ENIs.

    Ids are lower-case, as Azure's are the same in any case.
    """
    instance_id, eni_id = said["instance_id"].lower(), said["eni_id"].lower()
    own = [row for row in state["enis"] if row["instance_id"].lower() == instance_id]
    (primary,) = (row for row in own if row["eni_id"].lower() == eni_id)
    cidrs = {row["subnet_id"]: IPv4Network(row["cidr"]) for row in state["subnets"]}
    return NodeIdentity(
        instance_id=instance_id,
        eni_id=eni_id,
        mac=said["mac"],
        address=IPv4Address(said["address"]),
        subnet_cidr=IPv4Network(said["subnet_cidr"]),
        gateway=IPv4Address(said["gateway"]),
        address_v6=next((IPv6Address(one) for one in primary["addresses_v6"]), None),
        further=tuple(_further(row, cidrs[row["subnet_id"]]) for row in own if row is not primary),
        mtu=mtu,
    )


def _further(row: Mapping[str, Any], cidr: IPv4Network) -> FurtherEni:
    return FurtherEni(
        eni_id=row["eni_id"].lower(),
        link=f"eth{row['device_index']}",
        address=IPv4Interface((row["addresses"][0], cidr.prefixlen)),
    )
