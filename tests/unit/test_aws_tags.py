from __future__ import annotations

import pytest

from providers.aws import tags as t

ROLE = t.TAG_SUBNET_ROLE
OURS = t.TAG_SUBNET_CLUSTER + "ours"
OTHERS = t.TAG_SUBNET_CLUSTER + "other"


@pytest.mark.parametrize(
    ("tags", "is_primary", "is_candidate", "is_excluded"),
    [
        # aws-vpc-cni's own cases: the primary's needs no tag, any other one does.
        pytest.param({}, True, True, False, id="primary untagged"),
        pytest.param({ROLE: "0"}, True, False, True, id="primary role 0"),
        pytest.param({ROLE: "1"}, True, True, False, id="primary role 1"),
        pytest.param({}, False, False, False, id="other untagged"),
        pytest.param({ROLE: "1"}, False, True, False, id="other role 1"),
        pytest.param({ROLE: "0"}, False, False, True, id="other role 0"),
        pytest.param({ROLE: "yes"}, False, True, False, id="any value but 0"),
        pytest.param({ROLE: ""}, False, True, False, id="empty value"),
        pytest.param({ROLE: "1", OTHERS: "shared"}, False, False, False, id="another cluster's"),
        pytest.param({ROLE: "1", OURS: "shared"}, False, True, False, id="ours by cluster"),
        pytest.param({ROLE: "1", OURS: "", OTHERS: ""}, False, True, False, id="of several"),
        pytest.param({OURS: "shared"}, False, False, False, id="a cluster alone is no role"),
        pytest.param({OTHERS: "shared"}, True, False, False, id="primary, another cluster's"),
        pytest.param({ROLE: "0", OURS: "shared"}, False, False, True, id="role 0 wins"),
    ],
)
def test_what_a_subnets_tags_allow(
    tags: dict[str, str], is_primary: bool, is_candidate: bool, is_excluded: bool
) -> None:
    says = t.eligibility(tags, "ours", is_primary_subnet=is_primary)
    assert (says.is_candidate, says.is_excluded) == (is_candidate, is_excluded)


def test_a_cluster_tag_excludes_a_node_that_has_no_cluster_name() -> None:
    says = t.eligibility({ROLE: "1", OTHERS: "shared"}, "", is_primary_subnet=False)
    assert not says.is_candidate


NO_MANAGE = t.TAG_NO_MANAGE
INSTANCE = t.TAG_INSTANCE


@pytest.mark.parametrize(
    ("tags", "kind", "is_primary", "manages_untagged", "expected"),
    [
        pytest.param({}, "interface", False, True, True, id="untagged"),
        pytest.param({}, "interface", False, False, False, id="untagged, not wanted"),
        pytest.param({}, "interface", True, False, True, id="the primary always"),
        pytest.param({NO_MANAGE: "true"}, "interface", False, True, False, id="no_manage"),
        pytest.param({NO_MANAGE: "true"}, "interface", True, True, True, id="primary no_manage"),
        pytest.param({NO_MANAGE: "false"}, "interface", False, False, True, id="no_manage false"),
        pytest.param({INSTANCE: "i-1"}, "interface", False, False, True, id="our instance"),
        pytest.param({INSTANCE: "i-2"}, "interface", False, True, False, id="another instance"),
        pytest.param({INSTANCE: "i-1"}, "trunk", False, True, False, id="trunk"),
        pytest.param({INSTANCE: "i-1"}, "branch", False, True, False, id="branch"),
        pytest.param({}, "efa", False, True, False, id="efa"),
        pytest.param({}, "efa-only", False, True, False, id="efa-only"),
    ],
)
def test_which_enis_are_ours(
    tags: dict[str, str], kind: str, is_primary: bool, manages_untagged: bool, expected: bool
) -> None:
    managed = t.is_managed(
        tags,
        interface_type=kind,
        is_primary=is_primary,
        instance_id="i-1",
        manages_untagged=manages_untagged,
    )
    assert managed is expected


def test_a_new_eni_carries_aws_nodes_tags_and_the_users() -> None:
    made = t.new_eni_tags(
        instance_id="i-1", cluster_name="c", created_unix=0.0, extra={"team": "blue"}
    )
    assert made == {
        "team": "blue",
        "node.k8s.amazonaws.com/instance_id": "i-1",
        "node.k8s.amazonaws.com/createdAt": "1970-01-01T00:00:00Z",
        "cluster.k8s.amazonaws.com/name": "c",
        "eks:eni:owner": "amazon-vpc-cni",
    }


def test_a_users_tag_never_replaces_one_of_ours() -> None:
    made = t.new_eni_tags(
        instance_id="i-1", cluster_name="", created_unix=0.0, extra={t.TAG_INSTANCE: "i-2"}
    )
    assert made[t.TAG_INSTANCE] == "i-1"
    assert t.TAG_CLUSTER not in made


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        ("1970-01-01T00:01:40Z", 100.0),
        ("1970-01-01T01:01:40+01:00", 100.0),
        ("1970-01-01T00:01:40", 100.0),
        (None, None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_the_creation_tag_is_a_time_or_none(text: str | None, unix: float | None) -> None:
    assert t.created_unix(text) == unix


def test_the_creation_time_is_in_the_token() -> None:
    assert t.token_unix("5f5e100-abc") == 100_000_000.0
    assert t.token_unix("nonsense") == 0.0
