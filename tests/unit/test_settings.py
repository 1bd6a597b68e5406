"""The settings that ipamd acts on: defaults, ranges, precedence, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.errors import SettingsError
from ipamd.settings import ROWS, Settings, load
from ipamd.settings.rows import OnBad, Setting
from ipamd.settings.table import TABLE
from ipamd.settings.values import shown, stripped

PREFIXES = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
IPV6 = {**PREFIXES, "ENABLE_IPv6": "true"}
CUSTOM = {
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
    "VPC_IPAMD_ENICONFIG_FILE": "/etc/eniconfigs.yaml",
}


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return str(caught.value)


def test_an_empty_environment_gives_aws_nodes_defaults() -> None:
    loaded = load({})
    assert loaded.settings == Settings(
        warm_enis=1,
        warm_addresses=0,
        minimum_addresses=0,
        warm_prefixes=0,
        max_enis=0,
        use_prefixes=False,
        has_ipv4=True,
        has_ipv6=False,
        provisions=True,
        has_multi_nic=False,
        has_custom_networking=False,
        eni_config_file=None,
        eni_config_name="default",
        discovers_subnets=True,
        extra_eni_tags=(),
        manages_untagged_enis=True,
        cleans_orphans=False,
        has_pod_eni=False,
        pod_eni_mode="strict",
        has_external_snat=False,
        exclude_snat_cidrs=(),
        randomize_snat="prng",
        external_service_cidrs=(),
        has_node_port_support=True,
        connmark=0x80,
        disables_tcp_early_demux=False,
        has_v4_egress=True,
        has_v6_egress=False,
        network_policy_mode="",
        cooldown_seconds=30,
        run_dir=Path("/run/vpc-ipamd"),
        store_dir=Path("/run/vpc-ipamd"),
        peer_socket=Path("/var/run/aws-node/ipamd.sock"),
        peer_checkpoint=Path("/var/run/aws-node/ipam.json"),
        cni_backend_socket=None,
        targets_file=None,
        cloud="aws",
        max_pods=0,
        introspection_address="127.0.0.1:61679",
        metrics_port=61678,
        log_level="info",
        cluster_name="",
        api_timeout_seconds=10,
        azure_client_id="",
        azure_arm_endpoint="https://management.azure.com",
        azure_metadata_endpoint="http://169.254.169.254",
        azure_write_seconds=0,
        azure_write_interval_seconds=0,
        azure_scale_set_nic_api_version="",
        azure_resync_seconds=450,
        has_azure_hints=True,
        unset_targets=frozenset(
            {
                "WARM_ENI_TARGET",
                "WARM_IP_TARGET",
                "MINIMUM_IP_TARGET",
                "WARM_PREFIX_TARGET",
                "ENABLE_PREFIX_DELEGATION",
            }
        ),
    )
    assert (loaded.warnings, loaded.notes) == ((), ())


# The ranges and what a bad value gives: aws-node's pkg/ipamd/ipamd.go, getWarm*Target and the like.
FALLS_BACK = [
    ("WARM_ENI_TARGET", "warm_enis", 1),
    ("WARM_IP_TARGET", "warm_addresses", 0),
    ("MINIMUM_IP_TARGET", "minimum_addresses", 0),
    ("WARM_PREFIX_TARGET", "warm_prefixes", 0),
]


@pytest.mark.parametrize(("name", "field", "default"), FALLS_BACK)
@pytest.mark.parametrize("value", ["-1", "many", "1.5", "1e3", "0x10", " 3", "3 ", "\u0663"])
def test_a_bad_target_falls_back_with_a_warning_as_in_aws_node(
    name: str, field: str, default: int, value: str
) -> None:
    loaded = load({name: value})
    assert getattr(loaded.settings, field) == default
    assert len(loaded.warnings) == 1
    assert f"{name}={value!r} must be a whole number from 0" in loaded.warnings[0]
    assert loaded.origins[name] == "default"


@pytest.mark.parametrize(("name", "field", "default"), FALLS_BACK)
@pytest.mark.parametrize(("value", "number"), [("0", 0), ("7", 7), ("+7", 7), ("007", 7)])
def test_a_target_is_read_as_go_reads_it(
    name: str, field: str, default: int, value: str, number: int
) -> None:
    loaded = load({name: value})
    assert getattr(loaded.settings, field) == number
    assert loaded.origins[name] == "env"


# strconv.ParseBool of Go's standard library takes these words and no others.
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


@pytest.mark.parametrize(
    ("word", "value"), [*((w, True) for w in TRUE), *((w, False) for w in FALSE)]
)
def test_a_switch_takes_the_words_of_go(word: str, value: bool) -> None:
    assert load({"ENABLE_SUBNET_DISCOVERY": word}).settings.discovers_subnets is value
    assert load({"ENABLE_MULTI_NIC": word}).settings.has_multi_nic is value


@pytest.mark.parametrize("word", ["yes", "on", "tRUE", "2", "true ", "enabled"])
def test_another_word_gives_the_switch_its_default_with_a_warning(word: str) -> None:
    loaded = load({"ENABLE_SUBNET_DISCOVERY": word, "ENABLE_MULTI_NIC": word})
    assert (loaded.settings.discovers_subnets, loaded.settings.has_multi_nic) == (True, False)
    assert len(loaded.warnings) == 2


@pytest.mark.parametrize(
    ("name", "field", "when_true"),
    [
        ("ENABLE_MULTI_NIC", "has_multi_nic", True),
        ("ENABLE_SUBNET_DISCOVERY", "discovers_subnets", True),
        ("MANAGE_UNTAGGED_ENI", "manages_untagged_enis", True),
        ("DISABLE_NETWORK_RESOURCE_PROVISIONING", "provisions", False),
        ("VPC_IPAMD_ORPHAN_CLEANUP", "cleans_orphans", True),
    ],
)
def test_each_switch_sets_its_field(name: str, field: str, when_true: bool) -> None:
    assert getattr(load({name: "true"}).settings, field) is when_true
    assert getattr(load({name: "false"}).settings, field) is not when_true


def test_every_refused_value_is_named_at_once_in_one_line() -> None:
    said = refusal({
        "IP_COOLDOWN_PERIOD": "-3",
        "VPC_IPAMD_CLOUD": "moon",
        "VPC_IPAMD_RUN_DIR": "run",
        "WARM_IP_TARGET": "x",
        "ANNOTATE_POD_IP": "true",
        "ENABLE_IPv6": "true",
    })  # fmt: skip
    assert "IP_COOLDOWN_PERIOD='-3'" in said
    assert "VPC_IPAMD_CLOUD='moon' must be one of aws" in said
    assert "VPC_IPAMD_RUN_DIR='run' must be an absolute path" in said
    assert "ANNOTATE_POD_IP=true asks for" in said
    assert "ENABLE_IPv6=true needs ENABLE_PREFIX_DELEGATION=true" in said
    assert "WARM_IP_TARGET" not in said
    assert "\n" not in said


@pytest.mark.parametrize(("value", "limit"), [("-1", 0), ("0", 0), ("2", 2), ("all", 0)])
def test_max_eni_below_one_means_the_instance_types_limit(value: str, limit: int) -> None:
    assert load({"MAX_ENI": value}).settings.max_enis == limit


def test_a_store_directory_of_its_own_is_used() -> None:
    settings = load({"VPC_IPAMD_RUN_DIR": "/run/a", "VPC_IPAMD_STORE_DIR": "/run/b"}).settings
    assert (settings.run_dir, settings.store_dir) == (Path("/run/a"), Path("/run/b"))


def test_an_empty_peer_socket_means_not_to_look_and_other_empty_values_are_unset() -> None:
    loaded = load({"VPC_IPAMD_PEER_SOCKET": "", "VPC_IPAMD_RUN_DIR": "", "WARM_ENI_TARGET": ""})
    assert loaded.settings.peer_socket is None
    assert loaded.settings.run_dir == Path("/run/vpc-ipamd")
    assert [loaded.origins[n] for n in ("VPC_IPAMD_PEER_SOCKET", "WARM_ENI_TARGET")] == [
        "env",
        "default",
    ]


# --- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v4", "v6", "families"),
    [
        ("", "", (True, False)),
        ("true", "", (True, False)),
        ("", "false", (True, False)),
        ("", "true", (False, True)),
        ("false", "true", (False, True)),
    ],
)
def test_ipv4_is_on_unless_ipv6_is(v4: str, v6: str, families: tuple[bool, bool]) -> None:
    settings = load({**PREFIXES, "ENABLE_IPv4": v4, "ENABLE_IPv6": v6}).settings
    assert (settings.has_ipv4, settings.has_ipv6) == families


# isConfigValid of aws-node's pkg/ipamd/ipamd.go, and validateEnvVars of its cmd/aws-vpc-cni.
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({**IPV6, "ENABLE_IPv4": "true"}, "ENABLE_IPv4 and ENABLE_IPv6 must be true, not both"),
        ({"ENABLE_IPv4": "false"}, "ENABLE_IPv4 and ENABLE_IPv6 must be true, not none"),
        ({"ENABLE_IPv6": "true"}, "ENABLE_IPv6=true needs ENABLE_PREFIX_DELEGATION=true"),
        ({**IPV6, **CUSTOM}, "CUSTOM_NETWORK_CFG=true exclude each other"),
        ({"ENABLE_PREFIX_DELEGATION": "true"}, "needs one of WARM_IP_TARGET,"),
        ({"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "-1"}, "above 0"),
        ({**IPV6, "AWS_VPC_ENI_MTU": "1279"}, "AWS_VPC_ENI_MTU must be at least 1280 with IPv6"),
        ({**IPV6, "POD_MTU": "576"}, "POD_MTU must be at least 1280 with IPv6"),
        ({"AWS_VPC_ENI_MTU": "575"}, "AWS_VPC_ENI_MTU='575' must be a whole number from 576"),
        ({"POD_MTU": "9002"}, "POD_MTU='9002' must be a whole number from 576 to 9001"),
        ({"IP_COOLDOWN_PERIOD": "soon"}, "IP_COOLDOWN_PERIOD='soon' must be"),
        ({"AWS_VPC_K8S_CNI_VETHPREFIX": "vlan"}, "AWS_VPC_K8S_CNI_VETHPREFIX='vlan' must be"),
        ({"AWS_VPC_K8S_CNI_VETHPREFIX": "longe"}, "AWS_VPC_K8S_CNI_VETHPREFIX='longe' must be"),
        ({"NETWORK_POLICY_ENFORCING_MODE": "loose"}, "='loose' must be one of none"),
    ],
)  # fmt: skip
def test_what_aws_node_refuses_is_refused(environ: dict[str, str], said: str) -> None:
    assert said in refusal(environ)


@pytest.mark.parametrize("name", ["WARM_PREFIX_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET"])
def test_prefixes_start_with_any_one_target_above_zero(name: str) -> None:
    assert load({"ENABLE_PREFIX_DELEGATION": "true", name: "1"}).settings.use_prefixes


def test_custom_networking_needs_its_file() -> None:
    settings = load({**CUSTOM, "VPC_IPAMD_ENICONFIG": "us-west-2a"}).settings
    assert (settings.has_custom_networking, settings.eni_config_name) == (True, "us-west-2a")
    assert settings.eni_config_file == Path("/etc/eniconfigs.yaml")
    assert "needs VPC_IPAMD_ENICONFIG_FILE" in refusal(
        {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true"}
    )


# --- tags -----------------------------------------------------------------------------------------


def test_extra_tags_are_pairs_without_the_reserved_keys() -> None:
    text = '{"team": "blue", "a": "", "node.k8s.amazonaws.com/no_manage": "true"}'
    loaded = load({"ADDITIONAL_ENI_TAGS": text})
    assert loaded.settings.extra_eni_tags == (("a", ""), ("team", "blue"))
    assert loaded.warnings == (
        "ADDITIONAL_ENI_TAGS: the reserved key 'node.k8s.amazonaws.com/no_manage' is left out",
    )


@pytest.mark.parametrize("text", ["{", "[]", "team=blue", '{"a": 1}', '{"a": null}', '"x"'])
def test_bad_tags_are_ignored_with_a_warning(text: str) -> None:
    loaded = load({"ADDITIONAL_ENI_TAGS": text})
    assert loaded.settings.extra_eni_tags == ()
    assert len(loaded.warnings) == 1 and "ADDITIONAL_ENI_TAGS" in loaded.warnings[0]


# --- what one forces on another -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "by"),
    [
        ({"DISABLE_LEAKED_ENI_CLEANUP": "true"}, "DISABLE_LEAKED_ENI_CLEANUP"),
        ({"DISABLE_NETWORK_RESOURCE_PROVISIONING": "1"}, "DISABLE_NETWORK_RESOURCE_PROVISIONING"),
        (IPV6, "ENABLE_IPv6"),
    ],
)
def test_the_orphan_cleanup_is_forced_off(environ: dict[str, str], by: str) -> None:
    loaded = load({**environ, "VPC_IPAMD_ORPHAN_CLEANUP": "true"})
    assert not loaded.settings.cleans_orphans
    assert loaded.origins["VPC_IPAMD_ORPHAN_CLEANUP"] == f"forced by {by}"
    assert f"VPC_IPAMD_ORPHAN_CLEANUP=true has no effect: {by} forces it" in loaded.notes


def test_the_switches_of_the_listeners_turn_them_off() -> None:
    loaded = load({"DISABLE_METRICS": "true", "DISABLE_INTROSPECTION": "true"})
    assert (loaded.settings.metrics_port, loaded.settings.introspection_address) == (0, "")
    assert loaded.origins["VPC_IPAMD_METRICS_PORT"] == "forced by DISABLE_METRICS"


@pytest.mark.parametrize(
    ("theirs", "ours", "level"),
    [
        ("DEBUG", "", "debug"),
        ("Warn", "", "warning"),
        ("FATAL", "", "error"),
        ("DEBUG", "error", "error"),
        ("loud", "", "info"),
    ],
)
def test_aws_nodes_log_level_counts_where_ours_is_not_set(
    theirs: str, ours: str, level: str
) -> None:
    environ = {"AWS_VPC_K8S_CNI_LOGLEVEL": theirs, "VPC_IPAMD_LOG_LEVEL": ours}
    assert load(environ).settings.log_level == level


# --- precedence: what has no effect is said -------------------------------------------------------

BOTH = {"WARM_ENI_TARGET": "1", "WARM_PREFIX_TARGET": "1"}


# Which target counts: aws-node's docs/prefix-and-ip-target.md and pkg/ipamd/ipamd.go.
@pytest.mark.parametrize(
    ("environ", "idle"),
    [
        (BOTH, {"WARM_PREFIX_TARGET"}),
        ({**BOTH, "WARM_IP_TARGET": "2"}, {"WARM_ENI_TARGET", "WARM_PREFIX_TARGET"}),
        ({**BOTH, "MINIMUM_IP_TARGET": "2"}, {"WARM_ENI_TARGET", "WARM_PREFIX_TARGET"}),
        ({**BOTH, "WARM_IP_TARGET": "0"}, {"WARM_PREFIX_TARGET"}),
        ({**BOTH, **PREFIXES}, {"WARM_ENI_TARGET"}),
        ({**BOTH, **PREFIXES, "WARM_IP_TARGET": "2"}, {"WARM_ENI_TARGET", "WARM_PREFIX_TARGET"}),
        ({**BOTH, **IPV6, "MAX_ENI": "2"}, {"WARM_ENI_TARGET", "WARM_PREFIX_TARGET", "MAX_ENI"}),
        ({"WARM_IP_TARGET": "2", "DISABLE_NETWORK_RESOURCE_PROVISIONING": "true"},
         {"WARM_IP_TARGET"}),
        ({"VPC_IPAMD_ENICONFIG": "a"}, {"VPC_IPAMD_ENICONFIG"}),
        ({**CUSTOM, "ENABLE_SUBNET_DISCOVERY": "true"}, {"ENABLE_SUBNET_DISCOVERY"}),
        ({"ENI_CONFIG_LABEL_DEF": "zone"}, {"ENI_CONFIG_LABEL_DEF"}),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_noted(environ: dict[str, str], idle: set[str]) -> None:
    loaded = load(environ)
    assert {note.split("=")[0] for note in loaded.notes if "has no effect" in note} == idle
    assert loaded.warnings == ()


def test_saying_no_to_the_hourly_cleanups_ban_does_not_turn_it_on() -> None:
    loaded = load({"DISABLE_LEAKED_ENI_CLEANUP": "false"})
    assert not loaded.settings.cleans_orphans
    assert "VPC_IPAMD_ORPHAN_CLEANUP=true does" in loaded.notes[0]


# --- the rows -------------------------------------------------------------------------------------


def test_every_default_of_the_rows_is_usable_and_every_name_is_there_once() -> None:
    assert len({s.name for s in ROWS}) == len(ROWS)
    for setting in ROWS:
        setting.parse(setting.default)
        if setting.chart is not None:
            setting.parse(setting.chart)
        if setting.fixed:
            setting.parse(setting.fixed)
        assert setting.meaning.endswith(".") and "|" not in setting.meaning + setting.status


@pytest.mark.parametrize(
    "setting", [s for s in ROWS if s.on_bad is OnBad.REFUSE], ids=lambda s: s.name
)
def test_a_refused_setting_says_what_it_must_be(setting: Setting) -> None:
    assert f"{setting.name}='\\x00 nonsense' must be " in refusal({setting.name: "\x00 nonsense"})


@pytest.mark.parametrize(
    "setting",
    [s for s in ROWS if s.on_bad is OnBad.FALL_BACK and s.parse is not stripped],
    ids=lambda s: s.name,
)
def test_a_forgiven_setting_says_what_it_must_be(setting: Setting) -> None:
    loaded = load({setting.name: "\x00 nonsense"})
    assert f"{setting.name}='\\x00 nonsense' must be " in loaded.warnings[0]
    assert f"using the default '{setting.default or 'empty'}'" in loaded.warnings[0]


@given(
    st.dictionaries(
        st.sampled_from([s.name for s in ROWS]),
        st.sampled_from(["", "0", "1", "true", "false", "/a", "strict", "{}"])
        | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    )
)
def test_any_environment_loads_or_is_refused_and_what_holds_reads_back(
    environ: dict[str, str],
) -> None:
    try:
        loaded = load(environ)
    except SettingsError as e:
        assert str(e).startswith("unusable settings: ")  # noqa: PT017 - either end is fine
        return
    again = load({s.name: shown(loaded.values[s.name]) for s in TABLE})
    nothing_unset = replace(loaded.settings, unset_targets=frozenset())
    assert again.settings == nothing_unset
