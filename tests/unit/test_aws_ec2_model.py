"""The trimmed model against botocore's own: smaller, and otherwise the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from providers.aws import ec2_model


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = tmp_path_factory.mktemp("data") / "model"
    ec2_model.build(target)
    return ec2_model.session(target)


@pytest.fixture(scope="module")
def full() -> Any:
    return ec2_model.session(Path("/nonexistent"))


def tree(shape: Any, above: tuple[str, ...] = ()) -> Any:
    """A shape with all that is in it, as texts."""
    if shape is None or shape.name in above:
        return shape and shape.name
    path = (*above, shape.name)
    inner: dict[str, Any] = {
        name: tree(member, path) for name, member in getattr(shape, "members", {}).items()
    }
    inner |= {
        k: tree(getattr(shape, k), path) for k in ("member", "key", "value") if hasattr(shape, k)
    }
    return shape.type_name, sorted(shape.serialization.items(), key=str), inner


@pytest.mark.parametrize("api", ec2_model.OPERATIONS)
def test_a_call_is_described_as_in_the_full_model(trimmed: Any, full: Any, api: str) -> None:
    ours, theirs = (s.get_service_model("ec2").operation_model(api) for s in (trimmed, full))
    assert tree(ours.input_shape) == tree(theirs.input_shape)
    assert tree(ours.output_shape) == tree(theirs.output_shape)
    assert ours.http == theirs.http


def test_nothing_else_is_described(trimmed: Any) -> None:
    model = trimmed.get_service_model("ec2")
    assert set(model.operation_names) == set(ec2_model.OPERATIONS)


@pytest.mark.parametrize("service", ["ec2", "sts"])
@pytest.mark.parametrize("region", ["us-west-2", "cn-north-1", "us-gov-west-1", "eu-central-2"])
def test_the_endpoints_are_the_same_everywhere(
    trimmed: Any, full: Any, service: str, region: str
) -> None:
    urls = [
        s.create_client(
            service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x"
        ).meta.endpoint_url
        for s in (trimmed, full)
    ]
    assert urls[0] == urls[1]


def test_a_member_that_is_called_documentation_is_kept() -> None:
    model = {
        "metadata": {},
        "operations": {"A": {"documentation": "text", "input": {"shape": "S"}}, "B": {}},
        "shapes": {
            "S": {
                "type": "structure",
                "documentation": "text",
                "members": {"documentation": {"shape": "T", "documentation": "text"}},
            },
            "T": {"type": "string"},
            "Unused": {"type": "string"},
        },
    }
    assert ec2_model.trimmed(model, ("A",)) == {
        "metadata": {},
        "operations": {"A": {"input": {"shape": "S"}}},
        "shapes": {
            "S": {"type": "structure", "members": {"documentation": {"shape": "T"}}},
            "T": {"type": "string"},
        },
    }


def test_a_session_without_a_trimmed_model_has_the_full_one(full: Any) -> None:
    assert "RunInstances" in full.get_service_model("ec2").operation_names
