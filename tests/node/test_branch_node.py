"""Pods with security groups of their own on a whole node: who gets which address, and who none."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cni_shim.branch import ANNOTATION, LIMIT

from providers.sim import netns
from providers.sim.runtime import CniCall, Pod, Runtime
from tests.api_server import FakeApiServer, serving
from tests.netns.datapath_lab import inside
from tests.node import branch_cnid
from tests.node.ground import CONFIG, Ground, Site, code_of, details_of, until
from tests.sim.lab import ec2_client

pytestmark = pytest.mark.netns

BRANCH_ADDRESS = "10.0.0.250"
ENTRY = {
    "eniId": "eni-0b1",
    "ifAddress": "02:00:00:00:07:07",
    "privateIp": BRANCH_ADDRESS,
    "vlanID": 7,
    "subnetCidr": "10.0.0.0/24",
}
ANNOTATED = {ANNOTATION: json.dumps([ENTRY])}


class BranchSite:
    """A node with a trunk ENI, and an API server that it can ask."""

    def __init__(self, site: Site, api: FakeApiServer, subnet_id: str) -> None:
        self.site = site
        self.api = api
        self.subnet_id = subnet_id

    def listing(self, command: str) -> str:
        return netns.run_in(self.site.node.netns_path, command.split())

    def runtime(self, annotations: Mapping[str, str]) -> Runtime:
        """One that hands these annotations over with each call, as containerd does."""
        key = "io.kubernetes.cri.pod-annotations"
        config: dict[str, Any] = {**CONFIG, "runtimeConfig": {key: dict(annotations)}}
        return self.site.runtime_with(config=config)

    def attach_trunk(self) -> None:
        """What the VPC resource controller does."""
        node = self.site.node
        assert node.identity is not None
        instance_id = node.identity.instance_id

        def attach() -> None:
            client = ec2_client(node.ipamd.env["AWS_ENDPOINT_URL_EC2"])
            made = client.create_network_interface(SubnetId=self.subnet_id, InterfaceType="trunk")
            eni_id = made["NetworkInterface"]["NetworkInterfaceId"]
            attached = client.attach_network_interface(
                NetworkInterfaceId=eni_id, InstanceId=instance_id, DeviceIndex=1
            )
            # It goes with the node: later tests share this cloud, and look for what is left over.
            attachment = {"AttachmentId": attached["AttachmentId"], "DeleteOnTermination": True}
            client.modify_network_interface_attribute(
                NetworkInterfaceId=eni_id, Attachment=attachment
            )

        netns.call_in(node.netns_path, attach)

    def add(self, runtime: Runtime, name: str = "web") -> tuple[Pod, CniCall]:
        pod = runtime.new_pod(name)
        return pod, runtime.call("ADD", pod)


@pytest.fixture
def branch_site(ground: Ground) -> Iterator[BranchSite]:
    """With its trunk attached, and vpc-cnid with stand-ins for VLAN links."""
    site = ground.site(env={"ENABLE_POD_ENI": "true"})
    assert ground.lab.vpc is not None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="api-")))
        fd = os.open(site.node.netns_path, os.O_RDONLY)
        stack.callback(os.close, fd)
        with inside(fd):  # it listens on the node's own loopback
            api = stack.enter_context(serving(directory))
        site.node.cnid.env.update(api.environ())
        site.node.cnid.argv = (sys.executable, str(Path(branch_cnid.__file__)))
        made = BranchSite(site, api, ground.lab.vpc.subnet_ids[0])
        made.attach_trunk()
        site.start()
        yield made


def test_a_pod_with_a_branch_eni_comes_up_and_goes_without_the_ledger(
    branch_site: BranchSite,
) -> None:
    site, runtime = branch_site.site, branch_site.runtime(ANNOTATED)
    before = branch_site.listing("ip rule")
    pod, added = branch_site.add(runtime)
    assert added.addresses == (BRANCH_ADDRESS,), f"{added}\n{site.node.cnid.log_tail()}"
    assert branch_site.listing("ip rule").count("lookup 107") == 2
    assert not site.ledger().allocations
    site.node.cnid.restart()
    until(lambda: "serving" in site.node.cnid.log_tail())
    checked = runtime.call("CHECK", pod, previous=added.document)
    assert checked.exit_code == 0, checked
    site.node.ipamd.kill()
    assert runtime.call("DEL", pod).exit_code == 0
    assert branch_site.listing("ip rule") == before
    assert "vlan.eth" not in branch_site.listing("ip link")


def test_a_pod_that_waits_for_its_eni_gets_no_address(branch_site: BranchSite) -> None:
    branch_site.api.put("web", limits=({LIMIT: "1"},))
    pod = branch_site.site.runtime.new_pod("web")
    branch_site.api.put("web", uid=pod.uid, limits=({LIMIT: "1"},))
    refused = branch_site.site.runtime.call("ADD", pod)
    assert code_of(refused) == 11
    assert "is not annotated yet" in details_of(refused)
    branch_site.api.put("web", uid=pod.uid, limits=({LIMIT: "1"},), annotations=ANNOTATED)
    assert branch_site.site.runtime.call("ADD", pod).addresses == (BRANCH_ADDRESS,)


def test_an_ordinary_pod_gets_an_ordinary_address_only_by_the_api_servers_word(
    branch_site: BranchSite,
) -> None:
    pod = branch_site.site.runtime.new_pod("plain")
    branch_site.api.put("plain", uid=pod.uid)
    branch_site.api.trouble = "forbidden"
    refused = branch_site.site.runtime.call("ADD", pod)
    assert code_of(refused) == 11 and "pod-eni.yaml" in details_of(refused)
    branch_site.api.trouble = ""
    added = branch_site.site.runtime.call("ADD", pod)
    assert added.addresses[0] in branch_site.site.ledger().in_state("allocated")


def test_a_kernel_without_vlans_is_named(branch_site: BranchSite) -> None:
    """Or the real link is made, where the kernel has them."""
    node = branch_site.site.node
    node.cnid.kill()
    node.cnid.argv = (sys.executable, "-m", "cni_shim")
    branch_site.site.start_cnid()
    _, added = branch_site.add(branch_site.runtime(ANNOTATED))
    if added.exit_code:
        assert "create VLAN link vlan.eth.7: ENOTSUP" in details_of(added)
    else:
        assert "vlan.eth.7" in branch_site.listing("ip link")
