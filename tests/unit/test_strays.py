"""Which addresses of the node's own links could be pods'."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest
from cni_shim.datapath.answers import LinkAddress
from cni_shim.datapath.strays import StrayAddress, stray_addresses

from tests.unit.test_datapath_diff import LINKS, PRIMARY, PRIMARY_V6, SECONDARY


@pytest.mark.parametrize(
    ("address", "is_stray"),
    [
        ("10.0.0.10/24", False),
        ("10.0.1.10/32", False),
        ("10.0.0.1/24", False),
        ("10.0.0.11/24", True),
        ("10.0.1.99/32", True),
        ("192.0.2.7/24", False),
        ("127.0.0.1/8", False),
        ("2001:db8:0:a::a/128", False),
        ("2001:db8:0:a::77/128", True),
        ("2001:db8:0:b::77/128", False),
        ("fe80::1/64", False),
    ],
    ids=[
        "primary's own",
        "secondary's own",
        "router's, on a plugin's bridge",
        "in the primary's subnet",
        "in the secondary's",
        "another network",
        "loopback",
        "primary's own, IPv6",
        "in the subnet, IPv6",
        "in a subnet whose IPv6 is not ours",
        "link-local",
    ],
)
def test_an_address_of_an_enis_subnet_that_is_no_enis(address: str, *, is_stray: bool) -> None:
    found = LinkAddress(ifindex=5, address=ip_interface(address), protocol=0)
    seen = stray_addresses(LINKS, (found,), (PRIMARY_V6, SECONDARY))
    expected = StrayAddress(address=found.address.ip, link_name="ens5")
    assert seen == ((expected,) if is_stray else ())


def test_without_enis_there_is_nothing_of_pods() -> None:
    found = LinkAddress(ifindex=5, address=ip_interface("10.0.0.11/24"), protocol=0)
    assert stray_addresses(LINKS, (found,), ()) == ()
    assert stray_addresses((), (found,), (PRIMARY,))[0].link_name == ""
