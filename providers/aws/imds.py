"""The instance metadata service, version 2 only.

Paths and meanings: EC2 user guide, "Instance metadata categories". A missing key is a 404 and means
"none". Read for who we are and for VPC CIDRs; never as the truth about addresses, since it lags the
API and has been seen to lose interfaces for a while (amazon-vpc-cni-k8s issues 1011, 1967).
"""

from __future__ import annotations

import os
import re
import threading
import time
from ipaddress import ip_network
from typing import Any

import urllib3

from ipamd.errors import Transient
from ipamd.model import IPNetwork

DEFAULT_ENDPOINT = "http://169.254.169.254"
TOKEN_SECONDS = 21600  # the longest a token may live
TIMEOUT = urllib3.Timeout(connect=1.0, read=2.0)
HINT_TIMEOUT = urllib3.Timeout(connect=0.3, read=1.0)
CONNECTIONS = 16
RETRIES = urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=(500, 502, 503), redirect=0)


class Imds:
    """A client with one cached token; safe to call from several threads."""

    def __init__(self, endpoint: str = "") -> None:
        # botocore's own variable, so that credentials and identity come from one place.
        self._endpoint = (
            endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT
        ).rstrip("/")
        # As many as ENIs are made in parallel: each wait asks several times a second.
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=RETRIES, maxsize=CONNECTIONS)
        self._lock = threading.Lock()
        self._token = ""
        self._token_ends = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def get(self, path: str) -> str | None:
        """The text at `/latest/<path>`, or None for a 404. Raises Transient for all else."""
        answer = self._request("GET", path, {"X-aws-ec2-metadata-token": self._fresh_token()})
        if answer.status == 401:  # the token expired on their clock before ours
            self._token_ends = 0.0
            answer = self._request("GET", path, {"X-aws-ec2-metadata-token": self._fresh_token()})
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Transient(
                f"the metadata service answered {answer.status} for {path}", operation="imds"
            )
        return answer.data.decode(errors="replace").strip()

    def need(self, path: str, pattern: str) -> str:
        """The text at a path that must exist and match; Transient names what was seen instead."""
        text = self.get(path)
        if text is None or not re.fullmatch(pattern, text):
            raise Transient(
                f"the metadata service says {text!r} for {path}; expected {pattern}",
                operation="imds",
            )
        return text

    def networks(self, path: str) -> tuple[IPNetwork, ...]:
        """A list of CIDRs, one a line; Transient when a line is none."""
        try:
            return tuple(ip_network(line) for line in (self.get(path) or "").split())
        except ValueError as e:
            raise Transient(
                f"the metadata service gives no CIDR for {path}: {e}", operation="imds"
            ) from e

    def shows_interface(self, mac: str) -> bool:
        """Whether an interface of that MAC is listed: a hint. One quick try; Transient else."""
        path = f"meta-data/network/interfaces/macs/{mac}/interface-id"
        headers = {"X-aws-ec2-metadata-token": self._fresh_token()}
        answer = self._request("GET", path, headers, timeout=HINT_TIMEOUT, retries=False)
        if answer.status == 401:
            self._token_ends = 0.0
        if answer.status not in (200, 404):
            raise Transient(
                f"the metadata service answered {answer.status} for {path}", operation="imds"
            )
        return answer.status == 200

    def _fresh_token(self) -> str:
        with self._lock:
            if time.monotonic() < self._token_ends:
                return self._token
            answer = self._request(
                "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
            if answer.status != 200:
                raise Transient(
                    f"the metadata service refuses a token with {answer.status}; "
                    "is this machine in EC2, as VPC_IPAMD_CLOUD=aws says, IMDSv2 enabled and the "
                    "hop limit high enough?",
                    operation="imds",
                )
            self._token = answer.data.decode().strip()
            self._token_ends = time.monotonic() + TOKEN_SECONDS * 0.8
            return self._token

    def _request(
        self, method: str, path: str, headers: dict[str, str], **options: Any
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self._endpoint}/latest/{path}"
        try:
            return self._http.request(method, url, headers=headers, **options)
        except urllib3.exceptions.HTTPError as e:
            raise Transient(
                f"the metadata service at {self._endpoint} does not answer ({path}): {e}; "
                "is this machine in EC2, as VPC_IPAMD_CLOUD=aws says?",
                operation="imds",
            ) from e
