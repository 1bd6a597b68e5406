"""The cloud child's half: a provider behind a pipe. Started by `ipamd.cloud_child.CloudChild`.

The only process that loads a cloud SDK and holds credentials. A module apart from the parent's
half, because what runs as `__main__` would pickle its classes under that name; and a small one: it
imports neither asyncio nor structlog, which the SDK does not need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from ipamd.api_calls import ApiCall
from ipamd.cloud import CloudProvider
from ipamd.cloud_messages import Answer, Call, Reply
from ipamd.errors import CloudError, Transient
from ipamd.plain_log import PlainLog
from ipamd.settings import Settings

Tell = Callable[[ApiCall], None]

WORKERS = 16
"""Calls in flight at once: all the ENIs but the primary of the largest common type, which may be
made in parallel, and looks beside them. Threads are made as they are needed."""


NICENESS = 5
"""Nobody waits for what it computes as a pod waits for its ADD, which needs a core beside it. It
counts among our own processes alone: a container's share beside others' is not touched by it."""


class _Pipe:
    """The sending half: answers and reports from several threads, whole each."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, message: Reply) -> None:
        """Send, unless the parent has gone."""
        with self._lock, contextlib.suppress(OSError):
            self._pipe.send(message)


def serve(make_provider: Callable[[Tell], CloudProvider], pipe: Connection, log: PlainLog) -> None:
    """The child's loop: answer calls, each in a thread, until the parent closes the pipe.

    `make_provider` gets what tells the parent of every API call as soon as it has ended, also of
    those of a method that hangs later.
    """
    sending = _Pipe(pipe)
    provider = make_provider(sending.send)

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
        sending.send(reply)

    pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="cloud")
    try:
        while True:
            pool.submit(answer, pipe.recv())
    except (EOFError, OSError):
        # Not waited for: the next ipamd's child may be at work already, and two would race.
        pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """`python -m ipamd.cloud_process CLOUD FD`: started by CloudChild, never by hand."""
    from ipamd.settings import load

    cloud, descriptor = sys.argv[1], int(sys.argv[2])
    os.nice(NICENESS)
    settings = load(os.environ).settings
    log = PlainLog(settings.log_level, process="cloud")
    # The parent decides when we end: a Ctrl-C to the process group must not cut a call in two.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(lambda tell: build_provider(cloud, settings, tell, log), Connection(descriptor), log)
    os._exit(0)  # a hung SDK thread must not keep a child alive whose parent has gone


def build_provider(cloud: str, settings: Settings, tell: Tell, log: PlainLog) -> CloudProvider:
    """The provider by its setting's word; imported here so that only one SDK is ever loaded."""
    match cloud:
        case "aws":
            from providers.aws.config import AwsConfig
            from providers.aws.ec2_model import has_trimmed_model
            from providers.aws.provider import AwsProvider

            if not has_trimmed_model():
                log.info("full_ec2_model_used", hint="python -m providers.aws.ec2_model")
            config = AwsConfig(
                api_timeout_seconds=settings.api_timeout_seconds,
                cluster_name=settings.cluster_name,
                extra_eni_tags=settings.extra_eni_tags,
                manages_untagged_enis=settings.manages_untagged_enis,
                discovers_subnets=settings.discovers_subnets,
                uses_prefixes=settings.use_prefixes,
            )
            return AwsProvider(config, tell=tell)
        case "azure":
            from providers.azure.compiled import has_bytecode
            from providers.azure.config import AzureConfig
            from providers.azure.provider import AzureProvider

            if not has_bytecode():
                log.info("azure_sdk_not_compiled", hint="python -m compileall its site-packages")
            return AzureProvider(
                AzureConfig(
                    journal_path=settings.store_dir / "azure-writes.json",
                    api_timeout_seconds=settings.api_timeout_seconds,
                    arm_endpoint=settings.azure_arm_endpoint,
                    metadata_endpoint=settings.azure_metadata_endpoint,
                    client_id=settings.azure_client_id,
                    write_seconds=settings.azure_write_seconds,
                    write_interval_seconds=settings.azure_write_interval_seconds,
                    scale_set_nic_api_version=settings.azure_scale_set_nic_api_version,
                    resync_seconds=settings.azure_resync_seconds,
                    has_hints=settings.has_azure_hints,
                ),
                tell=tell,
                note=log.info,
            )
        case _:
            raise SystemExit(f"unknown cloud {cloud!r}")


if __name__ == "__main__":
    main()
