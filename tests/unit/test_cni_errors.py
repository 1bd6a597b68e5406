"""The error document, and what ipamd's errors become in it."""

from __future__ import annotations

import json

import pytest
from cni_shim.errors import CODE_BY_REASON, CniError, CniErrorCode, from_ipamd
from ipam_api.v1.ipam_pb2 import ErrorDetail


def test_the_document_has_the_members_of_the_specification() -> None:
    document = CniError(CniErrorCode.TRY_AGAIN_LATER, "no", 'why "so"').to_json("0.4.0")
    assert document.endswith(b"}\n")
    assert json.loads(document) == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": "no",
        "details": 'why "so"',
    }


def test_without_details_there_is_no_such_member() -> None:
    assert "details" not in json.loads(CniError(CniErrorCode.IO_FAILURE, "no").to_json("1.0.0"))


def test_every_reason_of_ipamd_has_a_code() -> None:
    reasons = set(ErrorDetail.Reason.values()) - {ErrorDetail.REASON_UNSPECIFIED}
    assert set(CODE_BY_REASON) == reasons


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ErrorDetail.NO_ADDRESS, 11),
        (ErrorDetail.NOT_READY, 11),
        (ErrorDetail.ATTACHMENT_CONFLICT, 11),
        (ErrorDetail.ATTEMPT_REVOKED, 11),
        (ErrorDetail.STORE_FAILED, 11),
        (ErrorDetail.UNKNOWN_ATTACHMENT, 103),
        (ErrorDetail.BAD_REQUEST, 7),
    ],
)
def test_a_reason_decides_the_code(reason: ErrorDetail.Reason, code: int) -> None:
    found = from_ipamd("INTERNAL", "text", ErrorDetail(reason=reason))
    assert found.code == code
    assert found.msg


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("UNAVAILABLE", 11),
        ("DEADLINE_EXCEEDED", 11),
        ("INTERNAL", 11),
        ("UNKNOWN", 11),
        ("INVALID_ARGUMENT", 7),
        ("PERMISSION_DENIED", 5),
        ("UNIMPLEMENTED", 5),
    ],
)
@pytest.mark.parametrize("detail", [None, ErrorDetail()])
def test_without_a_reason_the_status_decides(
    status: str, code: int, detail: ErrorDetail | None
) -> None:
    found = from_ipamd(status, "connection refused", detail)
    assert (found.code, found.details) == (code, "connection refused")


def test_details_name_the_subnet_and_when_to_ask_again() -> None:
    detail = ErrorDetail(
        reason=ErrorDetail.NO_ADDRESS,
        message="subnet-1 is full",
        retry_after_seconds=12.3,
        subnet_id="subnet-1",
        eni_id="eni-2",
    )
    found = from_ipamd("RESOURCE_EXHAUSTED", "ignored", detail)
    assert found.details == "subnet-1 is full; ENI eni-2; try again in 12 s"


def test_details_fall_back_to_the_text_of_the_status() -> None:
    detail = ErrorDetail(reason=ErrorDetail.NO_ADDRESS, subnet_id="subnet-1")
    assert from_ipamd("X", "the text", detail).details == "the text; subnet subnet-1"
