"""aws-node's other variables: its stock chart starts us, and what we lack is said or refused."""

from __future__ import annotations

import pytest

from ipamd.errors import SettingsError
from ipamd.settings import ROWS, load
from ipamd.settings.unknown import unknown_names
from tests.unit.stock_chart import STOCK_CHART

KNOWN = [row.name for row in ROWS]


def test_the_stock_chart_starts_us_and_says_plainly_what_is_missing() -> None:
    loaded = load(STOCK_CHART)
    assert loaded.warnings == ()
    assert sorted(note.split("=")[0] for note in loaded.notes) == [
        "AWS_VPC_K8S_CNI_LOG_FILE",
        "AWS_VPC_K8S_PLUGIN_LOG_FILE",
        "AWS_VPC_K8S_PLUGIN_LOG_LEVEL",
        "ENABLE_IMDS_ONLY_MODE",
        "MY_NODE_NAME",
        "MY_POD_NAME",
        "VPC_CNI_VERSION",
        "WARM_PREFIX_TARGET",
    ]
    assert loaded.settings.warm_prefixes == 1
    asked = (
        "ENABLE_PREFIX_DELEGATION",
        "NETWORK_POLICY_ENFORCING_MODE",
        "WARM_ENI_TARGET",
        "WARM_PREFIX_TARGET",
    )
    environ = {name: STOCK_CHART[name] for name in asked} | {"VPC_IPAMD_LOG_LEVEL": "debug"}
    assert loaded.settings == load(environ).settings


def test_the_rows_know_the_charts_values() -> None:
    from_pod = {"MY_NODE_NAME", "MY_POD_NAME"}
    charted = {row.name: row.chart for row in ROWS if row.chart is not None}
    assert charted == {n: v for n, v in STOCK_CHART.items() if n not in from_pod}


@pytest.mark.parametrize("row", [r for r in ROWS if r.group.name != "OURS"], ids=lambda r: r.name)
def test_aws_nodes_own_default_never_ends_the_start(row: object) -> None:
    name, default, chart = (getattr(row, field) for field in ("name", "default", "chart"))
    for value in {default, chart or ""}:
        assert load({name: value}).values.keys() == set(KNOWN)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"ENABLE_IMDS_ONLY_MODE": "1"},
            "ENABLE_IMDS_ONLY_MODE=true asks for a pool from metadata",
        ),
        ({"ANNOTATE_POD_IP": "true"}, "asks for annotations on pods, which are not built"),
    ],
)
def test_what_we_lack_ends_the_start_with_what_to_do(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert said in str(caught.value)


def test_all_that_we_lack_is_listed_at_once() -> None:
    asked = {"ANNOTATE_POD_IP": "true", "ENABLE_IMDS_ONLY_MODE": "true"}
    with pytest.raises(SettingsError) as caught:
        load(asked)
    assert all(f"{name}=true" in str(caught.value) for name in asked)


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"},
        {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "false", "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "none"},
        {"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.9.0.0/16"},
        {"AWS_EXTERNAL_SERVICE_CIDRS": "10.9.0.0/16"},
        {"AWS_VPC_CNI_NODE_PORT_SUPPORT": "false"},
        {"AWS_VPC_K8S_CNI_CONNMARK": "128"},
        {"DISABLE_TCP_EARLY_DEMUX": "true"},
        {"ENABLE_V6_EGRESS": "true"},
        {"NETWORK_POLICY_ENFORCING_MODE": "none"},
        {"NETWORK_POLICY_ENFORCING_MODE": "STRICT"},
        {"AWS_MANAGE_ENIS_NON_SCHEDULABLE": "true"},
        {"AWS_VPC_ENI_MTU": "1500"},
        {"AWS_VPC_K8S_CNI_VETHPREFIX": "cali", "POD_MTU": "1500"},
        {"ENABLE_BANDWIDTH_PLUGIN": "true", "DISABLE_POD_V6": "true"},
        {"AWS_REGION": "eu-west-1"},
        {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "HOME": "/", "PATH": "/bin"},
    ],
    ids=str,
)
def test_what_does_as_it_says_is_no_line(environ: dict[str, str]) -> None:
    assert (load(environ).warnings, load(environ).notes) == ((), ())


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"ANNOTATE_POD_IP": "false"}, "ANNOTATE_POD_IP=false is off, as it always is here"),
        (
            {"POD_SECURITY_GROUP_ENFORCING_MODE": "standard"},
            "has no effect: ENABLE_POD_ENI is not true",
        ),
        ({"ENABLE_V4_EGRESS": "true"}, "has no effect: it is about IPv4 egress of other nodes'"),
        ({"AWS_MANAGE_ENIS_NON_SCHEDULABLE": "false"}, "a cordoned one keeps its targets"),
        ({"AWS_VPC_K8S_CNI_LOG_FILE": "stdout"}, "has no effect: logs go to stderr"),
        ({"AWS_VPC_K8S_PLUGIN_LOG_FILE": "stdout"}, "has no effect"),
        ({"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.0.0.1/8, 10.1.0.0/16",
          "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"},
         "=10.0.0.0/8,10.1.0.0/16 has no effect: AWS_VPC_K8S_CNI_EXTERNALSNAT=true"),
        ({"AWS_VPC_K8S_CNI_RANDOMIZESNAT": "prng", "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"},
         "=prng has no effect: AWS_VPC_K8S_CNI_EXTERNALSNAT=true"),
        ({"ENABLE_NFTABLES": "true"}, "has no effect: nftables is always used"),
        ({"USE_CLOUDWATCH": "true"}, "cni-metrics-helper reads it"),
    ],
)  # fmt: skip
def test_what_is_off_or_without_effect_is_one_note(environ: dict[str, str], said: str) -> None:
    loaded = load(environ)
    assert len(loaded.notes) == 1 and said in loaded.notes[0]
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ENABLE_IPV6", "; the nearest known name is ENABLE_IPv6"),
        ("WARM_IP_TARGETS", "; the nearest known name is WARM_IP_TARGET"),
        ("Warm_Eni_Target", "; the nearest known name is WARM_ENI_TARGET"),
        ("VPC_IPAMD_MAX_PDOS", "; the nearest known name is VPC_IPAMD_MAX_PODS"),
        ("AWS_VPC_K8S_CNI_FROBNICATE_EVERYTHING", ""),
    ],
)
def test_an_unknown_name_of_that_kind_is_told_with_the_nearest(name: str, said: str) -> None:
    assert unknown_names([name], KNOWN) == (f"{name} is unknown and has no effect{said}",)
    assert load({name: "secret"}).warnings == unknown_names([name], KNOWN)


@pytest.mark.parametrize(
    "name",
    [
        "WARM_CACHE_SERVICE_HOST", "WARM_CACHE_SERVICE_PORT_HTTP", "ENABLE_ME_PORT",
        "ENABLE_ME_PORT_80_TCP_ADDR", "VPC_CNI_RUN_DIR", "AWS_ACCESS_KEY_ID", "POD_NAME", "LANG",
    ],
)  # fmt: skip
def test_others_names_are_left_alone(name: str) -> None:
    assert unknown_names([name], KNOWN) == ()


def test_passwords_in_urls_are_never_said() -> None:
    urls = {"CLUSTER_ENDPOINT": "https://me:hush@api:443", "AWS_EC2_ENDPOINT": "http://hush@x"}
    loaded = load(urls)
    assert len(loaded.notes) == 2
    assert "hush" not in " ".join(loaded.notes)
    assert "https://***@api:443" in " ".join(loaded.notes)
