"""Pods as their users see them: addresses, names, ports, and daemons that end as a pod starts."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cri_api import runtime_pb2 as pb

from providers.sim import netns
from providers.sim.lab import Lab
from tests.node.ground import until
from tests.node.kill_driver import cloud_child_of
from tests.runtime.cri import Sandbox
from tests.runtime.world import World, conflist, with_portmap

pytestmark = pytest.mark.netns

PARALLEL = 20
HOST_PORT = 18080
GREETING = "hello from here"


def serve(world: World, sandbox: Sandbox) -> None:
    """A web server on port 80 of the pod."""
    command = f"echo {GREETING} >/www/index.html && exec httpd -f -p 80 -h /www"
    world.cri.start_container(sandbox, "/bin/sh", "-c", command)


def fetched(world: World, client: str, address: str) -> str:
    """The page that a container gets from a pod's web server; empty where it gets nothing."""
    command = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80"
    return _page(world.cri.execute(client, "/bin/sh", "-c", command).stdout)


def fetched_from(netns_path: str, address: str, port: int) -> str:
    """The same from a network namespace of the machine."""

    def fetch() -> str:
        with socket.create_connection((address, port), timeout=1.0) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return _page(connection.makefile().read())

    try:
        return netns.call_in(netns_path, fetch)
    except OSError:
        return ""


def _page(answer: str) -> str:
    return answer.replace("\r", "").partition("\n\n")[2].strip()


def test_twenty_sandboxes_at_once_get_twenty_addresses_that_all_work(world: World) -> None:
    with ThreadPoolExecutor(PARALLEL) as pool:
        started = list(pool.map(world.cri.run, [f"web-{n}" for n in range(PARALLEL)]))
        assert len({sandbox.ip for sandbox in started}) == PARALLEL
        assert all(pool.map(world.can_reach_router, started))
        assert world.disagreements() == []
        list(pool.map(lambda sandbox: world.cri.end(sandbox.sandbox_id), started))
    assert world.site.ledger().allocations == {}
    assert {call.verb for call in world.tap.calls()} == {"ADD", "DEL"}


def test_pods_serve_each_other_by_their_addresses(world: World) -> None:
    server, other = world.cri.run("server"), world.cri.run("other")
    serve(world, server)
    client = world.cri.start_container(other, "/bin/sleep", "600")
    until(lambda: fetched(world, client, server.ip) == GREETING, what="the page")
    assert fetched(world, client, server.ip) == GREETING


def test_a_pod_has_the_hostname_and_the_name_servers_it_was_given(world: World) -> None:
    dns = pb.DNSConfig(servers=["10.0.0.10"], searches=["shop.svc"], options=["ndots:5"])
    sandbox = world.cri.run(world.cri.config("web", hostname="web-host", dns=dns))
    container = world.cri.start_container(sandbox, "/bin/sleep", "600")
    assert world.cri.execute(container, "hostname").stdout == "web-host\n"
    assert world.cri.execute(container, "cat", "/etc/resolv.conf").stdout.splitlines() == [
        "search shop.svc",
        "nameserver 10.0.0.10",
        "options ndots:5",
    ]


def test_the_address_in_the_pod_is_the_one_that_the_runtime_tells(world: World) -> None:
    sandbox = world.cri.run("web")
    container = world.cri.start_container(sandbox, "/bin/sleep", "600")
    assert f"inet {sandbox.ip}/32" in world.cri.execute(container, "ip", "address").stdout


def test_a_host_port_leads_to_the_pod_through_debians_portmap(world: World, cloud: Lab) -> None:
    world.containerd.install("portmap")
    world.containerd.configure(with_portmap())
    sandbox = world.cri.run(world.cri.config("web", host_port=HOST_PORT))
    serve(world, sandbox)
    elsewhere = cloud.add_node("rt-client")
    try:
        door = (world.address, HOST_PORT)
        until(
            lambda: fetched_from(elsewhere.netns_path, *door) == GREETING,
            what="the page from another instance",
        )
        assert fetched_from(world.node.netns_path, *door) == GREETING
        world.cri.end(sandbox.sandbox_id)
        assert fetched_from(elsewhere.netns_path, *door) == ""
        world.containerd.configure(conflist())
    finally:
        cloud.remove_node("rt-client")


def _kill_cnid(world: World) -> None:
    world.node.cnid.kill()
    world.site.start_cnid()


def _kill_ipamd(world: World) -> None:
    world.site.restart_ipamd()


def _kill_cloud_child(world: World) -> None:
    child = cloud_child_of(world.node.ipamd.pid)
    assert child is not None
    os.kill(child, signal.SIGKILL)


def _kill_containerd(world: World) -> None:
    world.containerd.daemon.kill()
    world.containerd.start()


@pytest.mark.parametrize("kill", [_kill_cnid, _kill_ipamd, _kill_cloud_child])
def test_a_sandbox_whose_address_is_awaited_starts_though_a_daemon_died(
    world: World, kill: Callable[[World], None]
) -> None:
    with ThreadPoolExecutor() as pool, world.empty_pool():
        began = time.monotonic()
        starting = pool.submit(world.cri.run, "patient")
        until(lambda: _is_awaited(world), what="the waiting ADD")
        kill(world)
        world.lab.control.call("clear_faults")
        sandbox = starting.result()
        assert time.monotonic() - began < 25.0
        assert world.can_reach_router(sandbox)
        assert len(world.tap.calls(sandbox.sandbox_id)) == 1, "the launcher has asked again itself"


def test_a_containerd_that_died_while_a_sandbox_started_ends_it_after_its_return(
    world: World,
) -> None:
    """The launcher outlives it and still waits for the address when the DEL comes."""
    with ThreadPoolExecutor() as pool, world.empty_pool():
        starting = pool.submit(world.failed_run, "cut-off")
        until(lambda: _is_awaited(world), what="the waiting ADD")
        world.containerd.daemon.kill()
        starting.result()
        world.containerd.start()
        (left,) = (key for key, one in world.cri.listed().items() if one.name == "cut-off")
        began = time.monotonic()
        world.cri.end(left)
        assert time.monotonic() - began < 5.0
        world.lab.control.call("clear_faults")
        until(lambda: not _is_awaited(world), what="the end of the waiting")
        assert world.traces(left) == []
    assert world.can_reach_router(world.cri.run("cut-off"))


def _is_awaited(world: World) -> bool:
    return bool(world.site.status()[1].get("waiting_allocations"))


def test_the_launcher_in_python_serves_a_runtime_as_well(cloud: Lab) -> None:
    world = World(cloud, "rt-python", launcher="python", is_tapped=False)
    try:
        world.start()
        with ThreadPoolExecutor(8) as pool:
            started = list(pool.map(world.cri.run, [f"web-{n}" for n in range(8)]))
        assert all(map(world.can_reach_router, started))
        assert world.disagreements() == []
        world.containerd.clear()
        world.agree()
    finally:
        world.close()
