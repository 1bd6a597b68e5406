"""The node's side of WatchNode and ReportNode: make the host as ipamd wants it, say what is there.

Two threads. `watch` keeps the newest wanted network; `run` applies it on every change, on link
notices and on a slow tick, reports to ipamd, and sweeps what the ledger does not explain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.allocations import PEER, addresses_of
from cni_shim.datapath.desired import DesiredHost, EniReadiness
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.notices import Notice
from cni_shim.datapath.pods import ObservedPod
from cni_shim.datapath.strays import StrayAddress
from cni_shim.ipam_client import IpamdError
from cni_shim.node_network import desired_host
from cni_shim.pod_mtu import PodMtu
from cni_shim.relevance import concerns_host, concerns_pods
from cni_shim.spec import AttachmentKey
from cni_shim.verbs import Verbs

log = structlog.get_logger()

REPORT_SECONDS = 60.0
RETRY_SECONDS = 0.5
"""While an ENI is not ready or a report was not taken: soon, but no busy loop."""

LEAST_GAP_SECONDS = 0.25
"""From one round to the next: whoever deletes our rules all the time costs four rounds a second,
and what was deleted once is back well within one."""

HEARTBEAT_SECONDS = 10.0
SUSPECT_SECONDS = 30.0
"""How far apart the two looks are that make something of ours a leftover (I5)."""

REPORT_TIMEOUT_SECONDS = 5.0


class Reporter(Protocol):
    """The calls of ipamd that this module makes."""

    def report(self, request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        """See IpamClient.report."""

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        """See IpamClient.get."""


class Host(Protocol):
    """The host's side of the datapath."""

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        """See HostDatapath.apply."""


class Pods(Protocol):
    """What the sweep needs of the pods' side."""

    def observe(self) -> tuple[ObservedPod, ...]:
        """See PodDatapath.observe."""

    def remove_leftover(self, observed: ObservedPod) -> bool:
        """See PodDatapath.remove_leftover."""


class NodeWatch:
    """Keeps the host network right and ipamd informed."""

    def __init__(
        self,
        ipam: Reporter,
        host: Host,
        pods: Pods,
        verbs: Verbs,
        *,
        mend: Callable[[], None],
        beat: Callable[[], None],
        notes: Callable[[], tuple[str, ...]] = tuple,
        strays: Callable[[], tuple[StrayAddress, ...]] = tuple,
        pod_mtu: PodMtu,
        eni_mtu: int | None,
    ) -> None:
        """`mend` puts back what stood for pods that other plugins wired; `beat` is called once a
        round; `notes` are sentences that go along with each report; `strays` what the last round
        found of pods' addresses on the node's own links."""
        self._mend = mend
        self._ipam = ipam
        self._host = host
        self._pods = pods
        self._verbs = verbs
        self._beat = beat
        self._notes = notes
        self._strays = strays
        self._pod_mtu = pod_mtu
        self._eni_mtu = eni_mtu
        self._wanted: pb.NodeNetwork | None = None
        self._wake = threading.Event()
        self._reported: tuple[EniReadiness, ...] = ()
        self._reported_strays: tuple[StrayAddress, ...] = ()
        self._reported_network: pb.NodeNetwork | None = None
        self._next_report = 0.0
        self._suspects: dict[ObservedPod, float] = {}
        self._suspects_epoch = ""
        self._failure = ""
        self._eni_ifindexes: frozenset[int] = frozenset()

    def wanted(self, network: pb.NodeNetwork) -> None:
        """A new wanted network arrived."""
        self._wanted = network
        self._wake.set()

    @property
    def host_problem(self) -> str:
        """Why the host's network could not be made as wanted, at the last try; empty if it was."""
        return self._failure

    def has_reported(self, epoch: str) -> bool:
        """Whether ipamd has accepted a report of this epoch from us."""
        network = self._reported_network
        return network is not None and network.epoch == epoch

    def on_notice(self, notice: Notice) -> None:
        """Look again where the notice may concern what is ours. Runs on the listening thread."""
        network = self._wanted
        if network is not None and (
            concerns_host(notice, network, self._eni_ifindexes) or concerns_pods(notice)
        ):
            self._wake.set()

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Apply and report for ever. Many notices at once make one round, or two."""
        while not is_stopping():
            self._wake.clear()
            self._beat()
            began = time.monotonic()
            pause = HEARTBEAT_SECONDS if self.step(began) else RETRY_SECONDS
            self._wake.wait(timeout=pause)
            time.sleep(max(began + LEAST_GAP_SECONDS - time.monotonic(), 0.0))

    def step(self, now: float) -> bool:
        """One round; True when all is as wanted and known to ipamd."""
        network = self._wanted
        if network is None:
            return True  # nothing is known to be wanted; the watch thread wakes us
        try:
            readiness = self._host.apply(desired_host(network, eni_mtu=self._eni_mtu))
            self._mend()
        except (DatapathError, ValueError) as e:
            if str(e) != self._failure:
                log.error("host_network_failed", error=str(e))
            self._failure = str(e)
            return False
        self._failure = ""
        self._eni_ifindexes = frozenset(r.ifindex for r in readiness)
        self._pod_mtu.take(_primary_mtu(network, readiness))
        strays = self._strays()
        is_news = readiness != self._reported
        are_new = strays != self._reported_strays
        if is_news or are_new or network is not self._reported_network or now >= self._next_report:
            if is_news:
                log.info("host_network_applied", enis={r.eni_id: r.message for r in readiness})
            if are_new:
                _tell_strays(strays)
            if not self._report(network.epoch, readiness, strays):
                return False
            self._reported, self._reported_network = readiness, network
            self._reported_strays = strays
            pause = SUSPECT_SECONDS if self._suspects else REPORT_SECONDS
            self._next_report = now + pause
        return all(r.is_ready for r in readiness)

    def _report(
        self, epoch: str, readiness: tuple[EniReadiness, ...], strays: tuple[StrayAddress, ...]
    ) -> bool:
        try:
            observed = self._pods.observe()
            request = pb.ReportNodeRequest(
                epoch=epoch,
                enis=[
                    pb.EniReport(
                        eni_id=r.eni_id,
                        is_ready=r.is_ready,
                        link_name=r.link_name,
                        message=r.message,
                    )
                    for r in readiness
                ],
                addresses=[
                    *(_reported(pod) for pod in observed if pod.address is not None),
                    *(_on_host(stray) for stray in strays),
                ],
                notes=(*cut_off(observed, strays), *self._notes()),
            )
            reply = self._ipam.report(request, seconds=REPORT_TIMEOUT_SECONDS)
        except (IpamdError, DatapathError) as e:
            log.warning("report_failed", error=str(e))
            return False
        if reply.is_accepted:
            unknown = frozenset(reply.unknown_addresses)
            self._sweep(epoch, observed, unknown, time.monotonic())
        return reply.is_accepted

    def _sweep(
        self, epoch: str, observed: tuple[ObservedPod, ...], unknown: frozenset[str], now: float
    ) -> None:
        """Remove what is ours in the kernel and has no allocation, once two reports of one epoch,
        half a minute apart, agree: under a running pod nothing goes on one look. Each is asked for
        again under its key's lock, where no verb can be in the middle of making it."""
        if epoch != self._suspects_epoch:
            self._suspects, self._suspects_epoch = {}, epoch
        suspects = {p for p in observed if p.is_ours and _is_suspect(p, unknown)}
        self._suspects = {p: self._suspects.get(p, now) for p in suspects}
        for pod, since in self._suspects.items():
            if now - since >= SUSPECT_SECONDS:
                self._remove_unless_held(pod, observed)

    def _remove_unless_held(self, pod: ObservedPod, observed: tuple[ObservedPod, ...]) -> None:
        key = _key_of(pod)
        if key is None:
            self._remove(pod)
            return
        # Busy, or ipamd unsure: the next report looks again.
        with (
            suppress(TimeoutError, IpamdError),
            self._verbs.locked(key, timeout_seconds=0.0),
        ):
            if self._is_unheld(key, _addresses_on_link(pod, observed)):
                self._remove(pod)

    def _is_unheld(self, key: AttachmentKey, addresses: set[Address]) -> bool:
        """Whether the ledger has nothing for the key, or only addresses that its link has not."""
        held = self._ipam.get(
            pb.AttachmentKey(container_id=key.container_id, ifname=key.ifname),
            deadline_monotonic=time.monotonic() + 1.0,
        )
        if held is None:
            return True
        return (
            bool(addresses) and held.wired_by != PEER and addresses.isdisjoint(addresses_of(held))
        )

    def _remove(self, pod: ObservedPod) -> None:
        try:
            if self._pods.remove_leftover(pod):
                log.warning(
                    "leftover_removed",
                    link=pod.link_name,
                    address=str(pod.address),
                    container_id=pod.container_id,
                )
        except DatapathError as e:
            log.warning("leftover_stays", link=pod.link_name, error=str(e))


def _primary_mtu(network: pb.NodeNetwork, readiness: tuple[EniReadiness, ...]) -> int:
    """Of the primary ENI's link, 0 where there is none."""
    primary = {eni.eni_id for eni in network.enis if eni.is_primary}
    return next((r.mtu for r in readiness if r.eni_id in primary), 0)


def _addresses_on_link(pod: ObservedPod, observed: tuple[ObservedPod, ...]) -> set[Address]:
    """Every address that the link of this one carries; a pod has one of each family."""
    return {p.address for p in observed if p.ifindex == pod.ifindex and p.address is not None}


def _is_suspect(pod: ObservedPod, unknown: frozenset[str]) -> bool:
    """No allocation explains it, or it may be half of a wire that is under way.

    A link whose names had to be hashed cannot be asked for, and is left to its DEL.
    """
    if pod.container_id.startswith("~") or pod.ifname.startswith("~"):
        return False
    return pod.address is None or str(pod.address) in unknown


def _key_of(pod: ObservedPod) -> AttachmentKey | None:
    """The key on the link, unless it had to be hashed to fit there."""
    if not pod.container_id or pod.container_id.startswith("~") or pod.ifname.startswith("~"):
        return None
    return AttachmentKey(container_id=pod.container_id, ifname=pod.ifname)


def _tell_strays(strays: tuple[StrayAddress, ...]) -> None:
    told = {str(stray.address): stray.link_name for stray in strays}
    if told:
        log.warning("addresses_on_node_links", addresses=told)
    else:
        log.info("no_addresses_on_node_links")


def cut_off(observed: tuple[ObservedPod, ...], strays: tuple[StrayAddress, ...]) -> Iterator[str]:
    """A sentence for each pod of ours whose address the node has taken for itself. Pure."""
    links = {stray.address: stray.link_name for stray in strays}
    for pod in observed:
        if pod.is_ours and pod.link_name and pod.address in links:
            yield (
                f"pod {pod.pod_namespace}/{pod.pod_name} is cut off: {links[pod.address]} of the "
                f"node has its address {pod.address} too; remove it there, and keep the system "
                "from configuring it again"
            )


def _on_host(stray: StrayAddress) -> pb.ObservedAddress:
    return pb.ObservedAddress(
        address=str(stray.address), link_name=stray.link_name, is_on_host=True
    )


def _reported(pod: ObservedPod) -> pb.ObservedAddress:
    message = pb.ObservedAddress(
        address=str(pod.address),
        link_name=pod.link_name,
        netns_cookie=pod.netns_cookie,
        network_name=pod.network_name,
        pod_namespace=pod.pod_namespace,
        pod_name=pod.pod_name,
    )
    key = _key_of(pod)
    if key is not None:
        message.key.container_id, message.key.ifname = key.container_id, key.ifname
    return message
