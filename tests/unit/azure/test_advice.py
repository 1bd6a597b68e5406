"""What people are told beside Azure's own words."""

from __future__ import annotations

import pytest

from providers.azure.advice import is_refused, lacking, no_token, tidy, unreached

WHO = "11111111-2222-3333-4444-555555555555"
NIC = "/subscriptions/s/resourceGroups/g (1)/providers/Microsoft.Network/networkInterfaces/n"
SUBNET = "/subscriptions/s/resourceGroups/v/providers/Microsoft.Network/virtualNetworks/v/subnets/p"
JOIN = "Microsoft.Network/virtualNetworks/subnets/join/action"

LINKED = (
    f"The client 'c' with object id '{WHO}' has permission to perform action "
    f"'Microsoft.Network/networkInterfaces/write' on scope '{NIC}'; however, it does not have "
    f"permission to perform action(s) '{JOIN}' on the linked scope(s) '{SUBNET}' (respectively) or "
    "the linked scope(s) are invalid."
)
OLD_LINKED = (
    f"The client has permission to perform action 'x' on scope '{NIC}', however it does not have "
    f"permission to perform action '{JOIN}' on the linked scope(s) '{SUBNET}'."
)
PLAIN = (
    f"The client 'c' with object id '{WHO}' does not have authorization to perform action "
    f"'Microsoft.Compute/virtualMachines/read' over scope '{NIC}' or the scope is invalid. If "
    "access was recently granted, please refresh your credentials."
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (LINKED, f"the identity with object id {WHO} lacks the right {JOIN} over {SUBNET}; give"),
        (OLD_LINKED, f"the identity lacks the right {JOIN} over {SUBNET}; give it the role"),
        (PLAIN, f"{WHO} lacks the right Microsoft.Compute/virtualMachines/read over {NIC}; give"),
    ],
    ids=["a linked one", "an older wording", "a plain one"],
)
def test_the_missing_right_is_named_with_its_place(message: str, expected: str) -> None:
    assert expected in lacking(message)


@pytest.mark.parametrize("message", ["", "Policy 'p' forbids it", LINKED[:200]])
def test_nothing_is_made_up_of_other_words(message: str) -> None:
    assert lacking(message) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            (
                "(<HTTPSConnection(host='192.0.2.77', port=443) at 0x7f74c5354d10>, "
                "'Connection to 192.0.2.77 timed out. (connect timeout=3.0)')"
            ),
            "Connection to 192.0.2.77 timed out. (connect timeout=3.0)",
        ),
        (
            (
                "('Unable to connect to proxy', ConnectTimeoutError(<HTTPSConnection("
                "host='192.0.2.88', port=3128) at 0x7fa>, 'Connection to 192.0.2.88 timed out.'))"
            ),
            "Unable to connect to proxy: Connection to 192.0.2.88 timed out.",
        ),
        (
            "HTTPConnectionPool(host='169.254.169.254', port=80): Read timed out.",
            "169.254.169.254:80: Read timed out.",
        ),
        ("(no quotes)", "(no quotes)"),
        ("", ""),
    ],
    ids=["a connection", "a proxy", "a pool", "other words", "nothing"],
)
def test_objects_of_python_are_no_words_for_people(text: str, expected: str) -> None:
    assert tidy(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "REQUESTS_CA_BUNDLE"),
        ("('Unable to connect to proxy', 'x')", "HTTPS_PROXY"),
        ("a:443: Failed to resolve 'a'", "is AZURE_ARM_ENDPOINT right"),
        ("Connection reset by peer", "may the node reach AZURE_ARM_ENDPOINT"),
    ],
)
def test_a_failure_on_the_way_says_what_to_look_at(text: str, expected: str) -> None:
    assert expected in unreached(text)


def test_a_machine_without_an_identity_is_told_how_to_get_one() -> None:
    said = no_token(
        "ManagedIdentityCredential authentication unavailable, no response from the IMDS endpoint. "
        "Token request error: (invalid_request) Identity not found"
    )
    assert said.startswith("no token from the metadata service: (invalid_request) Identity not ")
    assert "az vm identity assign" in said
    assert "AZURE_CLIENT_ID" in said


@pytest.mark.parametrize(
    ("error", "expected"),
    [("invalid_request", True), ("unauthorized_client", True), ("too_many_requests", False)],
)
def test_a_refused_identity_is_no_silence(error: str, expected: bool) -> None:
    assert is_refused(f"unavailable. Token request error: ({error}) said so") is expected
