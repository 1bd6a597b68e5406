"""The CNI rules: what is refused with which code, and what is let through."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from cni_shim import runtime_keys, spec
from cni_shim.errors import CniError
from cni_shim.ipam_only import IpamOnly
from cni_shim.plugin_config import PluginConfig
from hypothesis import given
from hypothesis import strategies as st

CONFLIST = Path(__file__).resolve().parents[2] / "cni-shim" / "10-vpc-ipamd.conflist"
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
# As containerd 1.6 runs GC and STATUS through libcni: everything set, most of it empty.
BARE_ENV = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_ARGS": ""}


def config(**others: object) -> dict[str, object]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "vpc-cni"} | others


def parse(env: dict[str, str] | None = None, stdin: object = None, **more: str) -> spec.CniRequest:
    values = (ENV if env is None else env) | more
    document = config() if stdin is None else stdin
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return spec.parse(lambda name: values.get(name, ""), data)


def error(env: dict[str, str] | None = None, stdin: object = None, **more: str) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(env, stdin, **more)
    return caught.value


def test_an_add_of_containerd_is_understood() -> None:
    args = "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u;IgnoreUnknown=1"
    stdin = config(vethPrefix="eni", mtu="1500", capabilities={"bandwidth": True})
    request = parse(stdin=stdin, CNI_ARGS=args)
    assert request == spec.CniRequest(
        verb=spec.Verb.ADD,
        key=spec.AttachmentKey(container_id="c1", ifname="eth0"),
        netns_path="/run/netns/x",
        allows_own_netns=False,
        pod=spec.Pod(namespace="ns", name="web", uid="u"),
        network_name="net",
        cni_version="1.0.0",
        config=PluginConfig(veth_prefix="eni", mtu=1500),
        prev_result=None,
    )


def test_our_conflist_is_understood() -> None:
    conflist = json.loads(CONFLIST.read_text())
    (plugin,) = conflist["plugins"]
    stdin = plugin | {"name": conflist["name"], "cniVersion": conflist["cniVersion"]}
    request = parse(stdin=stdin)
    assert (request.network_name, request.cni_version) == ("vpc-ipamd", "1.0.0")
    assert request.config == PluginConfig(veth_prefix="eni", mtu=0)


def test_our_conflist_lets_old_runtimes_have_1_0_and_new_ones_1_1() -> None:
    """libcni before 1.2 hands `cniVersion` on and knows no `cniVersions`."""
    conflist = json.loads(CONFLIST.read_text())
    assert conflist["cniVersion"] == "1.0.0"
    assert "1.0.0" in conflist["cniVersions"]
    assert conflist["cniVersions"][-1] == spec.NEWEST_VERSION
    assert set(conflist["cniVersions"]) <= set(spec.SUPPORTED_VERSIONS)


def test_our_conflist_has_every_verb_called_and_asks_for_annotations() -> None:
    conflist = json.loads(CONFLIST.read_text())
    assert {"disableCheck", "disableGC"}.isdisjoint(conflist)
    assert [plugin["type"] for plugin in conflist["plugins"]] == ["vpc-cni"]
    assert conflist["plugins"][0]["capabilities"] == {runtime_keys.ANNOTATIONS: True}


@pytest.mark.parametrize("command", ["", "add", "Add", "VERSION", "ADD ", "\udcff"])
def test_a_command_we_do_not_know_is_code_4(command: str) -> None:
    assert error(CNI_COMMAND=command).code == 4


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("ADD", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"}),
        ("CHECK", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"}),
        ("DEL", {"CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"}),
        ("GC", {"CNI_PATH"}),
    ],
)
@pytest.mark.parametrize("env", [{}, BARE_ENV], ids=["absent", "empty"])
def test_all_missing_variables_are_named_at_once(
    command: str, required: set[str], env: dict[str, str]
) -> None:
    found = error(env, CNI_COMMAND=command)
    assert found.code == 4
    assert set(found.msg.partition(": ")[2].split(", ")) == required


@pytest.mark.parametrize("missing", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])
def test_one_missing_variable_is_named_alone(missing: str) -> None:
    assert error(ENV | {missing: ""}).msg.endswith(f"missing: {missing}")


def test_a_missing_variable_is_told_before_a_bad_config() -> None:
    assert error(stdin=b"{", CNI_PATH="").code == 4


@pytest.mark.parametrize(
    "container_id", ["-a", ".a", "_a", "a/b", "a b", "a,b", "a\n", "\u00e9", "a" * 201]
)
def test_a_container_id_outside_the_alphabet_is_code_4(container_id: str) -> None:
    assert error(CNI_CONTAINERID=container_id).code == 4


@pytest.mark.parametrize("container_id", ["a", "9._-Z", "default-x1", "f" * 64, "a" * 200])
def test_a_container_id_need_not_be_hex(container_id: str) -> None:
    request = parse(CNI_CONTAINERID=container_id)
    assert request.key == spec.AttachmentKey(container_id=container_id, ifname="eth0")


@pytest.mark.parametrize(
    "ifname", [".", "..", "a/b", "a:b", "a b", "a\t", "a\n", "e" * 16, "\u00e9" * 8]
)
def test_an_ifname_the_kernel_refuses_is_code_4(ifname: str) -> None:
    assert error(CNI_IFNAME=ifname).code == 4


@pytest.mark.parametrize("ifname", ["e", "...", "e" * 15, "a,b", "\u00e9" * 7])
def test_an_ifname_the_kernel_takes_is_taken(ifname: str) -> None:
    request = parse(CNI_IFNAME=ifname)
    assert request.key == spec.AttachmentKey(container_id="c1", ifname=ifname)


@pytest.mark.parametrize(
    "stdin",
    [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b'"x"', b'{"cniVersion": 1, "name": "n"}'],
    ids=["empty", "cut", "no-utf8", "deep", "list", "null", "text", "version-as-number"],
)
def test_a_config_that_cannot_be_decoded_is_code_6(stdin: bytes) -> None:
    assert error(stdin=stdin).code == 6


@pytest.mark.parametrize("name", [None, "", 7, "-a", "a b", "a/b", "a\n"])
def test_a_network_without_a_usable_name_is_code_7(name: object) -> None:
    assert error(stdin=config(name=name)).code == 7


def test_a_network_without_any_name_is_code_7() -> None:
    assert error(stdin={"cniVersion": "1.0.0"}).code == 7


VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@pytest.mark.parametrize("command", SINCE)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_verb_is_taken_from_its_first_version_on_and_code_1_before(
    command: str, version: str
) -> None:
    stdin = config(cniVersion=version, **{"cni.dev/attachments": []})
    if VERSIONS.index(version) >= VERSIONS.index(SINCE[command]):
        assert parse(stdin=stdin, CNI_COMMAND=command).cni_version == version
        return
    found = error(stdin=stdin, CNI_COMMAND=command)
    assert (found.code, found.msg) == (1, "incompatible CNI versions")
    assert found.details == f"config is {version}, {command} exists since {SINCE[command]}"


@pytest.mark.parametrize("stdin", [config(cniVersion=""), {"name": "net", "type": "vpc-cni"}])
def test_no_version_means_the_oldest(stdin: dict[str, object]) -> None:
    assert parse(stdin=stdin).cni_version == "0.1.0"


@pytest.mark.parametrize("version", ["1.2.0", "1.0", "0.5.0", "01.0.0", "x", "\n"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_another_version_is_code_1_and_names_both_sides(command: str, version: str) -> None:
    found = error(stdin=config(cniVersion=version), CNI_COMMAND=command)
    assert (found.code, found.msg) == (1, "incompatible CNI versions")
    assert ascii(version) in found.details
    assert "0.4.0, 1.0.0, 1.1.0" in found.details


def test_an_unknown_key_of_ours_is_code_2_with_key_and_value() -> None:
    found = error(stdin=config(vethPrefx="eni"))
    assert found.code == 2
    assert "vethPrefx" in found.msg
    assert "eni" in found.msg


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("capabilities", {"portMappings": True}),
        ("runtimeConfig", {"portMappings": [{"HostPort": 80}]}),
        ("args", {"cni": {}}),
        ("prevResult", {"version": ""}),
        ("ipam", {"type": "host-local"}),
        ("dns", {}),
        ("ipMasq", "true"),
        ("disableCheck", "true"),
        ("disableGC", False),
        ("loadOnlyInlinedPlugins", "false"),
        ("cniVersions", ["1.0.0"]),
        ("cni.dev/valid-attachments", None),
        ("cni.dev/attachments", []),
    ],
)
def test_keys_of_runtimes_and_libcni_pass(key: str, value: object) -> None:
    assert parse(stdin=config(**{key: value})).config == PluginConfig()


@pytest.mark.parametrize(
    ("value", "mtu"), [(576, 576), (9001, 9001), ("1500", 1500), ("0900", 900)]
)
def test_mtu_may_be_a_number_or_text(value: object, mtu: int) -> None:
    assert parse(stdin=config(mtu=value)).config.mtu == mtu


@pytest.mark.parametrize(
    "value", [575, 9002, -1, 1500.0, True, None, "", "x", "1e3", "-1500", "\u0661500", [], {}]
)
def test_another_mtu_is_code_7_with_key_and_value(value: object) -> None:
    found = error(stdin=config(mtu=value))
    assert found.code == 7
    assert found.details.startswith("mtu=")


@pytest.mark.parametrize("prefix", ["eni", "e", "azv", "a-_9"])
def test_a_veth_prefix_of_up_to_four_characters_is_taken(prefix: str) -> None:
    assert parse(stdin=config(vethPrefix=prefix)).config.veth_prefix == prefix


@pytest.mark.parametrize("prefix", ["", "eth", "lo", "vlan", "enixx", "a/b", "9a", "a.b", 7, None])
def test_another_veth_prefix_is_code_7(prefix: object) -> None:
    found = error(stdin=config(vethPrefix=prefix))
    assert found.code == 7
    assert found.details.startswith("vethPrefix=")


@pytest.mark.parametrize("key", ["mtu", "vethPrefix", "unknown"])
def test_a_del_does_not_depend_on_our_keys(key: str) -> None:
    """The conflist may be of another version by then; the address must come back all the same."""
    request = parse(stdin=config(**{key: "?"}), CNI_COMMAND="DEL", CNI_NETNS="")
    assert request.config == PluginConfig()


@pytest.mark.parametrize(
    ("args", "pod"),
    [
        pytest.param("", spec.Pod(), id="absent"),
        pytest.param(
            "K8S_POD_UID=u;X=1;K8S_POD_NAME=n;K8S_POD_NAMESPACE=s",
            spec.Pod(namespace="s", name="n", uid="u"),
            id="any-order",
        ),
        pytest.param("IgnoreUnknown=1; K8S_POD_NAME=n", spec.Pod(name="n"), id="podman"),
        pytest.param("K8S_POD_NAME=a=b", spec.Pod(name="a=b"), id="two-equals"),
        pytest.param("nonsense;;=;K8S_POD_NAME", spec.Pod(), id="nonsense"),
        pytest.param("K8S_POD_NAME=a;K8S_POD_NAME=b", spec.Pod(name="b"), id="twice"),
    ],
)
def test_cni_args_are_read_leniently(args: str, pod: spec.Pod) -> None:
    assert parse(CNI_ARGS=args).pod == pod


@pytest.mark.parametrize("prev_result", [None, [], "x", 7])
def test_a_prev_result_that_is_no_object_counts_as_none(prev_result: object) -> None:
    request = parse(stdin=config(prevResult=prev_result), CNI_COMMAND="DEL")
    assert request.prev_result is None


def test_a_prev_result_of_any_shape_is_passed_on() -> None:
    prev_result = {"cniVersion": "0.3.1", "ips": [{"version": "", "address": "?"}]}
    assert parse(stdin=config(prevResult=prev_result)).prev_result == prev_result


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [("1", True), ("true", True), ("TRUE", True), ("", False), ("0", False), ("yes", False)],
)
def test_the_netns_override_is_one_or_true(value: str, is_allowed: bool) -> None:
    assert parse(CNI_NETNS_OVERRIDE=value).allows_own_netns is is_allowed


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "9.9.9"}', "9.9.9"),
        (b"{}", "0.1.0"),
        (b"", "1.1.0"),
        (b'{"cniVersion": []}', "1.1.0"),
    ],
)
def test_an_error_carries_the_configs_version_where_it_can(stdin: bytes, version: str) -> None:
    assert spec.error_version(stdin) == version


DUMMIES = dict.fromkeys(BARE_ENV, "dummy")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
@pytest.mark.parametrize("others", [{}, BARE_ENV, DUMMIES], ids=["absent", "empty", "dummy"])
def test_what_a_verb_does_not_use_may_be_absent_empty_or_anything(
    command: str, others: dict[str, str]
) -> None:
    stdin = config(cniVersion="1.1.0", **{"cni.dev/attachments": None})
    env = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"} | others
    assert parse(env, stdin).key is None


def test_status_needs_no_path() -> None:
    request = parse({"CNI_COMMAND": "STATUS"}, config(cniVersion="1.1.0"))
    assert request.verb is spec.Verb.STATUS


def valid(**lists: object) -> frozenset[tuple[str, str]] | None:
    keys = {"new": "cni.dev/valid-attachments", "old": "cni.dev/attachments"}
    stdin = config(cniVersion="1.1.0") | {keys[name]: value for name, value in lists.items()}
    found = parse(stdin=stdin, CNI_COMMAND="GC").valid_attachments
    return None if found is None else frozenset((k.container_id, k.ifname) for k in found)


A, B = ({"containerID": cid, "ifname": "eth0"} for cid in "ab")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        pytest.param({"new": None, "old": None}, set(), id="null-as-go-encodes-an-empty-list"),
        pytest.param({"new": [], "old": []}, set(), id="empty"),
        pytest.param({"new": [A]}, {"a"}, id="libcni-1.2.0-to-1.2.2"),
        pytest.param({"old": [A]}, {"a"}, id="the-key-of-the-older-text"),
        pytest.param({"new": [A, B], "old": [A, B]}, {"a", "b"}, id="both-alike"),
        pytest.param({"new": [A], "old": [B]}, {"a", "b"}, id="both-differing"),
        pytest.param({"new": None, "old": [B]}, {"b"}, id="null-and-a-list"),
        pytest.param({"new": [A, A]}, {"a"}, id="twice"),
        pytest.param(
            {"new": [{"ContainerID": "a", "IfName": "eth0", "x": 1}]}, {"a"}, id="any-case"
        ),
    ],
)
def test_gc_keeps_what_either_list_names(lists: dict[str, object], expected: set[str]) -> None:
    assert valid(**lists) == frozenset((cid, "eth0") for cid in expected)


def test_gc_without_any_list_is_code_7_and_no_release() -> None:
    found = error(stdin=config(cniVersion="1.1.0"), CNI_COMMAND="GC")
    assert found.code == 7
    assert "nothing was released" in found.details


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        7,
        {},
        ["a"],
        [None],
        [{}],
        [{"containerID": "a"}],
        [{"containerID": 1, "ifname": 2}],
    ],
)
def test_a_list_that_gc_cannot_read_is_code_7_and_no_release(value: object) -> None:
    stdin = config(cniVersion="1.1.0", **{"cni.dev/valid-attachments": value})
    found = error(stdin=stdin, CNI_COMMAND="GC")
    assert found.code == 7
    assert "nothing was released" in found.details


def test_a_gc_of_libcni_1_3_with_nothing_running_is_understood() -> None:
    """As libcni 1.3.0 encodes it: a nil slice under both keys; every variable is set but empty."""
    data = (Path(__file__).with_name("data") / "gc_libcni_1_3_0.json").read_bytes()
    request = parse(BARE_ENV | {"CNI_COMMAND": "GC", "CNI_PATH": "/opt/cni/bin"}, data)
    assert request.valid_attachments == frozenset()
    assert (request.network_name, request.cni_version) == ("vpc-ipamd", "1.1.0")


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "STATUS"])
def test_only_gc_reads_the_lists(command: str) -> None:
    stdin = config(cniVersion="1.1.0", **{"cni.dev/valid-attachments": "?"})
    assert parse(stdin=stdin, CNI_COMMAND=command).valid_attachments is None


@pytest.mark.parametrize(
    ("runtime_config", "annotations"),
    [
        pytest.param({runtime_keys.ANNOTATIONS: {"a": "1"}}, {"a": "1"}, id="containerd"),
        pytest.param({runtime_keys.ANNOTATIONS.upper(): {"a": "1"}}, {"a": "1"}, id="any-case"),
        pytest.param({runtime_keys.ANNOTATIONS: {"a": 1, "b": "2"}}, {"b": "2"}, id="no-text"),
        pytest.param({runtime_keys.ANNOTATIONS: None}, {}, id="null"),
        pytest.param({runtime_keys.ANNOTATIONS: ["a"]}, {}, id="list"),
        pytest.param({"portMappings": [{"HostPort": 1}]}, {}, id="cri-o"),
        pytest.param(None, {}, id="absent"),
    ],
)
def test_the_pods_annotations_are_read_from_the_runtimes_config(
    runtime_config: object, annotations: dict[str, str]
) -> None:
    assert parse(stdin=config(runtimeConfig=runtime_config)).pod_annotations == annotations


def test_a_main_plugins_keys_are_not_judged_when_we_are_its_ipam() -> None:
    stdin = config(type="bridge", bridge="br0", isGateway=True, ipam={"type": "vpc-cni"})
    request = parse(stdin=stdin)
    assert request.ipam_only == IpamOnly(main_type="bridge", bridge="br0")
    assert request.config == PluginConfig()


@pytest.mark.parametrize("ipam", [None, [], "x", {"type": 7}, {"type": ["vpc-cni"]}])
def test_an_ipam_of_any_shape_is_no_error_of_ours(ipam: object) -> None:
    assert parse(stdin=config(ipam=ipam)).ipam_only is None


@given(
    st.dictionaries(st.sampled_from([*ENV, "CNI_ARGS"]), st.text(max_size=20)),
    st.one_of(st.binary(max_size=50), st.text(max_size=50).map(str.encode)),
)
def test_no_input_causes_anything_but_a_cni_error(env: dict[str, str], stdin: bytes) -> None:
    with contextlib.suppress(CniError):
        assert parse(ENV | env, stdin).cni_version in spec.SUPPORTED_VERSIONS
