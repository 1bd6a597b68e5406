"""The cloud child's half: a provider behind a pipe. Started by `ipamd.cloud_child.CloudChild`.

The only process that loads a cloud SDK and holds credentials. A module apart from the parent's
half, because what runs as `__main__` would pickle its classes under that name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import structlog

from ipamd.cloud import CloudProvider
from ipamd.cloud_child import Answer, Call
from ipamd.errors import CloudError, Transient

log = structlog.get_logger()

WORKERS = 8
"""Calls in flight at once: more than the ENIs that a node creates in parallel."""


def serve(provider: CloudProvider, pipe: Connection) -> None:
    """The child's loop: answer calls, each in a thread, until the parent closes the pipe."""
    lock = threading.Lock()

    def answer(call: Call) -> None:
        try:
            value = getattr(provider, call.method)(*call.arguments)
            reply = Answer(number=call.number, value=value)
        except CloudError as e:
            reply = Answer(number=call.number, error=e)
        except Exception as e:  # the parent must hear of every failure, or its call would hang
            log.exception("cloud_call_failed", method=call.method)
            reply = Answer(
                number=call.number,
                error=Transient(f"{call.method}: {type(e).__name__}: {e}", operation=call.method),
            )
        with lock, contextlib.suppress(OSError):
            pipe.send(reply)

    pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="cloud")
    try:
        while True:
            pool.submit(answer, pipe.recv())
    except (EOFError, OSError):
        # Not waited for: the next ipamd's child may be at work already, and two would race.
        pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """`python -m ipamd.cloud_process CLOUD FD`: started by CloudChild, never by hand."""
    from ipamd.log import configure
    from ipamd.settings import load

    cloud, descriptor = sys.argv[1], int(sys.argv[2])
    settings = load(os.environ).settings
    configure(settings.log_level, process="cloud")
    # The parent decides when we end: a Ctrl-C to the process group must not cut a call in two.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    provider = build_provider(cloud, settings.api_timeout_seconds, settings.cluster_name)
    serve(provider, Connection(descriptor))
    os._exit(0)  # a hung SDK thread must not keep a child alive whose parent has gone


def build_provider(cloud: str, api_timeout_seconds: float, cluster_name: str) -> CloudProvider:
    """The provider by its setting's word; imported here so that only one SDK is ever loaded."""
    match cloud:
        case "aws":
            from providers.aws.provider import AwsProvider

            return AwsProvider(api_timeout_seconds=api_timeout_seconds, cluster_name=cluster_name)
        case _:
            raise SystemExit(f"unknown cloud {cloud!r}")


if __name__ == "__main__":
    main()
