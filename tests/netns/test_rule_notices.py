from __future__ import annotations

import subprocess
from queue import Queue

import pytest
from cni_shim.datapath.notices import LinkNotices, Notice, RuleVanished

pytestmark = pytest.mark.netns


def test_a_deleted_rule_is_told_at_once() -> None:
    heard: Queue[Notice] = Queue()
    notices = LinkNotices()
    notices.subscribe(heard.put)
    notices.start()
    rule = ["pref", "20000", "lookup", "99"]
    try:
        subprocess.run(["ip", "rule", "add", *rule], check=True)
        subprocess.run(["ip", "rule", "del", *rule], check=True)
        assert isinstance(heard.get(timeout=5), RuleVanished)
    finally:
        notices.close()
