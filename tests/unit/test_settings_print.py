"""`ipamd --print-config`, and the program's start with aws-node's stock environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ipamd.cli.print_config import page
from ipamd.settings import ROWS, load
from tests.unit.stock_chart import STOCK_CHART


def ipamd(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ipamd", *arguments],
        env={"PATH": os.defpath, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_document_has_every_variable_with_value_origin_and_status() -> None:
    loaded = load({"WARM_IP_TARGET": "3", "MAX_ENI": "x", "DISABLE_METRICS": "true"})
    document = json.loads(page(loaded, "json"))
    found = {row["name"]: (row["value"], row["origin"]) for row in document["settings"]}
    assert list(found) == [row.name for row in ROWS]
    assert found["WARM_IP_TARGET"] == ("3", "env")
    assert found["MAX_ENI"] == ("-1", "default")
    assert found["VPC_IPAMD_METRICS_PORT"] == ("0", "forced by DISABLE_METRICS")
    assert found["ANNOTATE_POD_IP"] == ("false", "fixed")
    assert document["warnings"] == list(loaded.warnings)
    assert document["notes"] == list(loaded.notes)


def test_the_table_has_a_line_each_and_what_is_to_be_said() -> None:
    loaded = load(STOCK_CHART)
    lines = page(loaded, "table").splitlines()
    assert len(lines) == 1 + len(ROWS) + len(loaded.warnings) + len(loaded.notes)
    assert lines[0].split() == ["VARIABLE", "VALUE", "ORIGIN", "STATUS"]
    assert "  ".join(lines[1].split()) == "WARM_ENI_TARGET  1  env  works  differently"


def test_no_password_is_printed() -> None:
    environ = {"CLUSTER_ENDPOINT": "https://u:hush@x", "AWS_SECRET_ACCESS_KEY": "hush",
               "ENABLE_SECRET": "hush"}  # fmt: skip
    assert all("hush" not in page(load(environ), output) for output in ("table", "json"))


def test_the_program_prints_the_stock_charts_settings_and_ends_well() -> None:
    done = ipamd(STOCK_CHART, "--print-config", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)["settings"]}
    assert all(rows[name]["origin"] in ("env", "fixed") for name in STOCK_CHART)


def test_the_program_refuses_with_status_2_and_one_line() -> None:
    asked = {"ENABLE_IMDS_ONLY_MODE": "true", "ANNOTATE_POD_IP": "true", "IP_COOLDOWN_PERIOD": "-1"}
    done = ipamd(asked, "--print-config")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert all(name in done.stderr for name in asked)


@pytest.mark.parametrize("argument", ["--print-confusion", "start"])
def test_an_unknown_argument_is_refused(argument: str) -> None:
    assert ipamd({}, argument).returncode == 2


NOWHERE = "http://127.0.0.1:9"
"""The discard port, on which nothing listens: no metadata and no EC2, as on a node without them."""


def test_the_stock_chart_really_starts_the_daemon_without_a_cloud(tmp_path: Path) -> None:
    own = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "VPC_IPAMD_RUN_DIR": str(tmp_path),
        "VPC_IPAMD_METRICS_PORT": "0",
        "VPC_IPAMD_PEER_SOCKET": "",
        "INTROSPECTION_BIND_ADDRESS": f"unix:{tmp_path}/introspection.sock",
        "AWS_ENDPOINT_URL_EC2": NOWHERE,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": NOWHERE,
    }
    lines: list[dict[str, str]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "ipamd"], env=own | STOCK_CHART, stderr=subprocess.PIPE
    ) as daemon:
        assert daemon.stderr is not None
        try:
            for line in daemon.stderr:
                if not line.startswith(b"{"):
                    continue
                lines.append(json.loads(line))
                if lines[-1]["event"] == "cloud_failed":  # it runs, and has found no metadata
                    daemon.send_signal(signal.SIGTERM)
        finally:
            daemon.kill()
    said = [line["event"] for line in lines]
    assert daemon.returncode == 0, lines
    assert "serving" in said and "stopped" in said
    assert said.count("setting_ignored") == len(load(STOCK_CHART).warnings)
    assert said.count("setting_noted") == len(load(STOCK_CHART).notes)
