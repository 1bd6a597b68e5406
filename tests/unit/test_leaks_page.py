"""What docs/leaks.md says of waits, events, rules and variables is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cni_shim import leak_watch, leaks, settings
from cni_shim.leaks import USUAL

PAGE = (Path(__file__).parents[2] / "docs" / "leaks.md").read_text()
WORDS = " ".join(PAGE.split())


@pytest.mark.parametrize(
    "sentence",
    [
        f"A look every {USUAL.between:.0f} s, the first {USUAL.first:.0f} s after the start",
        f"{USUAL.confirm:.0f} s after one that suspects something",
        f"a second look shares, {USUAL.confirm:.0f} s later or more",
        f"cooling {USUAL.confirm:.0f} to {USUAL.between + USUAL.confirm:.0f} s after the pod",
        f"it is younger than {USUAL.young:.0f} s",
        f"known to this vpc-cnid for {USUAL.forgotten:.0f} s",
    ],
)
def test_every_wait_on_the_page_is_the_wait(sentence: str) -> None:
    assert sentence in WORDS


def test_the_page_has_as_many_rules_as_the_code_states() -> None:
    assert leaks.__doc__ is not None
    stated = re.findall(r"^ (\d)    ", leaks.__doc__, re.MULTILINE)
    assert re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE) == stated == list("12345678")


@pytest.mark.parametrize("event", [*leak_watch._EVENTS.values(), "leak_released", "leak_stays"])
def test_every_event_is_on_the_page(event: str) -> None:
    assert f"| `{event}` |" in PAGE


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("VPC_IPAMD_LOST_DELS", settings.LOST_DELS[0]),
        ("VPC_IPAMD_CRI_SOCKETS", settings.DEFAULT_CRI_SOCKETS),
        ("VPC_IPAMD_NETNS_DIRS", settings.DEFAULT_NETNS_DIRS),
        ("VPC_IPAMD_CNI_CACHE_DIR", settings.DEFAULT_CNI_CACHE_DIR),
    ],
)
def test_every_default_on_the_page_is_the_default(name: str, default: str) -> None:
    assert f"| `{name}` | `{default}` |" in PAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VPC_IPAMD_LOST_DELS", "sometimes"),
        ("VPC_IPAMD_CRI_SOCKETS", "run/a.sock,/run/b.sock"),
        ("VPC_IPAMD_NETNS_DIRS", "/run/netns,netns"),
        ("VPC_IPAMD_CNI_CACHE_DIR", "results"),
    ],
)
def test_an_unusable_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(settings.SettingsError, match=f"{name}='{value}'"):
        settings.load({name: value})


def test_paths_are_read_with_commas_between() -> None:
    wanted = settings.load({"VPC_IPAMD_CRI_SOCKETS": "/run/a.sock, /run/b.sock,"})
    assert wanted.cri_sockets == (Path("/run/a.sock"), Path("/run/b.sock"))
