"""What people need to know of a failure beside Azure's own words: which right, which file (pure).

Each function takes a text as ARM, azure-identity or urllib3 gave it, and returns one for an error.
What cannot be read is left as it is.
"""

from __future__ import annotations

import re

# ARM's words of AuthorizationFailed and LinkedAuthorizationFailed ("Troubleshoot Azure RBAC"; issue
# threads of cloud-provider-azure). Of a linked one the second action is the one that is missing.
_OBJECT = re.compile(r"with object id '([^']{1,100})'")
_MISSING = (
    re.compile(
        r"does not have permission to perform action\(?s?\)? '([^']{1,300})'"
        r".{0,40}?scope\(?s?\)? '([^']{1,700})'"
    ),
    re.compile(
        r"does not have authorization to perform action '([^']{1,300})' over scope '([^']{1,700})'"
    ),
)

GIVE_IT = (
    "give it the role of scripts/deploy/azure/role.json there (az role assignment create); "
    "that holds after some minutes"
)
ASSIGN_IDENTITY = (
    "assign an identity to the machine (az vm identity assign, az vmss identity assign), or name "
    "the right one of several by its client id in AZURE_CLIENT_ID"
)
IN_AZURE = "is this machine in Azure, as VPC_IPAMD_CLOUD=azure says?"


def lacking(message: str) -> str:
    """Which right is missing to whom and where, and how to give it; "" for any other message.

    Example: "The client 'c' with object id 'o' does not have authorization to perform action 'a'
    over scope 's' ..." -> "the identity with object id o lacks the right a over s; give it ...".
    """
    found = next((m for pattern in _MISSING if (m := pattern.search(message))), None)
    if found is None:
        return ""
    who = _OBJECT.search(message)
    named = f"the identity with object id {who.group(1)}" if who else "the identity"
    return f"{named} lacks the right {found.group(1)} over {found.group(2)}; {GIVE_IT}"


_CONNECTION = re.compile(
    r"<?\w*HTTPS?Connection(?:Pool)?\(host='([^']*)', port=(\d+)\)(?: at 0x[0-9a-f]+>)?"
)
_QUOTED = re.compile(r"'([^']+)'")


def tidy(text: str) -> str:
    """A failed connection in words, without Python's names of objects, which differ each time.

    Example: "(<HTTPSConnection(host='a', port=443) at 0x7f>, 'timed out')" -> "timed out".
    """
    plain = _CONNECTION.sub(r"\1:\2", text)
    said = _QUOTED.findall(plain) if plain.startswith("(") else []
    return ": ".join(said) or plain


def unreached(text: str) -> str:
    """Why ARM did not answer, and what to look at."""
    said = tidy(text)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        ask = (
            "who answers as ARM shows a certificate that no known CA has signed: where a proxy "
            "signs by its own, name a file with that CA in REQUESTS_CA_BUNDLE"
        )
    elif "proxy" in text.lower():
        ask = "are HTTPS_PROXY and NO_PROXY of this process right?"
    elif "resolve" in text:
        ask = "is AZURE_ARM_ENDPOINT right, and does the node's DNS answer?"
    else:
        ask = (
            "may the node reach AZURE_ARM_ENDPOINT (firewall, route table, security group; service "
            "tag AzureResourceManager)?"
        )
    return f"{said}; {ask}"


_TOKEN_ERROR = re.compile(r"Token request error: (.+)")
# OAuth's words for what asking again does not cure (RFC 6749 5.2).
_REFUSED = re.compile(r"Token request error: \((invalid_request|\w+_client)\)")


def is_refused(text: str) -> bool:
    """Whether the metadata service has no such identity, as against no answer for now."""
    return _REFUSED.search(text) is not None


def no_token(text: str) -> str:
    """Why there is no token, and what to do; azure-identity says "no response" before the words of
    the metadata service's response."""
    found = _TOKEN_ERROR.search(text)
    said = f"no token from the metadata service: {found.group(1)}" if found else tidy(text)
    return f"{said}; {ASSIGN_IDENTITY}"
