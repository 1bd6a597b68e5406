"""The older SDK pair in a process of its own: reads one request a line, answers one line.

Started by `old_sdk.py` with the older tree first on its path; never imported by a test. A request
is `{"do": <a method of Client>, ...}`; the answer is `{"done": ...}`, or `{"refused": {...}}` when
the service said no. Bodies are given back as the models understood them: what they do not know is
lost.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError

# By name, because a type checker sees the newer pair.
compute: Any = importlib.import_module("azure.mgmt.compute")
compute_models: Any = importlib.import_module("azure.mgmt.compute.models")
network: Any = importlib.import_module("azure.mgmt.network")
network_models: Any = importlib.import_module("azure.mgmt.network.models")

Verb = Callable[..., Any]
# A lost race is tried again; more than this many in a row is a lost update in the making.
MOST_TRIES = 200
POLL_SECONDS = 0.02


class FixedToken:
    """The credential: a token that somebody else got. It lives as long as the test."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        """The one token, for any scope."""
        return AccessToken(self._token, 2**40)


class Client:
    """Both clients, and one method for each verb."""

    def __init__(self, url: str, ca_path: str, token: str, subscription: str) -> None:
        common: dict[str, Any] = {
            "base_url": url,
            "connection_verify": ca_path,
            "credential_scopes": ["https://management.azure.com/.default"],
            "polling_interval": POLL_SECONDS,
            "retry_total": 0,
        }
        credential = FixedToken(token)
        self._network = network.NetworkManagementClient(credential, subscription, **common)
        self._compute = compute.ComputeManagementClient(credential, subscription, **common)

    def versions(self) -> dict[str, str]:
        """What is really loaded, and from where."""
        return {
            "network": network.__version__,
            "compute": compute.__version__,
            "path": str(network.__file__),
        }

    def nic(self, group: str, name: str) -> Any:
        """The NIC."""
        return _dump(self._network.network_interfaces.get(group, name))

    def add_config(
        self, group: str, name: str, config: str, *, etag: str = "", block: bool = False
    ) -> Any:
        """Add one configuration in the NIC's subnet, wait for the end; `etag`: If-Match."""
        nic = self._network.network_interfaces.get(group, name)
        nic.ip_configurations.append(_config(nic, config, block=block))
        return _dump(self._put(group, name, nic, etag))

    def remove_config(self, group: str, name: str, config: str, *, etag: str = "") -> Any:
        """Leave one configuration out, wait for the end."""
        nic = self._network.network_interfaces.get(group, name)
        nic.ip_configurations = [one for one in nic.ip_configurations if one.name != config]
        return _dump(self._put(group, name, nic, etag))

    def append(self, group: str, name: str, configs: list[str]) -> int:
        """Add configurations one after another with If-Match; how many writes lost a race."""
        return sum(self._append(group, name, config) for config in configs)

    def instance(self, group: str, scale_set: str, instance_id: str) -> Any:
        """The instance's model."""
        return _dump(self._compute.virtual_machine_scale_set_vms.get(group, scale_set, instance_id))

    def add_instance_config(self, group: str, scale_set: str, instance_id: str, config: str) -> Any:
        """Add one configuration to the model of the instance, and wait for the poller's end."""
        machines = self._compute.virtual_machine_scale_set_vms
        model = machines.get(group, scale_set, instance_id)
        (nic,) = model.network_profile_configuration.network_interface_configurations
        first = nic.ip_configurations[0]
        nic.ip_configurations.append(
            compute_models.VirtualMachineScaleSetIPConfiguration(
                name=config, subnet=first.subnet, private_ip_address_version="IPv4", primary=False
            )
        )
        model.storage_profile.image_reference = None
        poller = machines.begin_update(group, scale_set, instance_id, model)
        updated = _dump(poller.result())
        return {"status": poller.status(), "model": updated}

    def instance_nics(self, group: str, scale_set: str, instance_id: str) -> Any:
        """The NICs of the instance, as Microsoft.Network shows them."""
        found = (
            self._network.network_interfaces.list_virtual_machine_scale_set_vm_network_interfaces(
                group, scale_set, instance_id
            )
        )
        return [_dump(nic) for nic in found]

    def _put(self, group: str, name: str, nic: Any, etag: str) -> Any:
        headers = {"If-Match": etag} if etag else {}
        return self._network.network_interfaces.begin_create_or_update(
            group, name, nic, headers=headers
        ).result()

    def _append(self, group: str, name: str, config: str) -> int:
        for lost in range(MOST_TRIES):
            nic = self._network.network_interfaces.get(group, name)
            nic.ip_configurations.append(_config(nic, config))
            try:
                self._put(group, name, nic, nic.etag)
            except HttpResponseError as error:
                if error.status_code != 412:
                    raise
            else:
                return lost
        raise TimeoutError(f"{config} lost {MOST_TRIES} races")


def _config(nic: Any, name: str, *, block: bool = False) -> Any:
    return network_models.NetworkInterfaceIPConfiguration(
        name=name,
        subnet=nic.ip_configurations[0].subnet,
        private_ip_allocation_method="Dynamic",
        private_ip_address_version="IPv4",
        private_ip_address_prefix_length=28 if block else None,
    )


def _dump(model: Any) -> Any:
    return model.serialize(keep_readonly=True)


def _answer(verbs: Mapping[str, Verb], line: str) -> dict[str, Any]:
    request = json.loads(line)
    try:
        return {"done": verbs[request.pop("do")](**request)}
    except HttpResponseError as error:
        code = error.error.code if error.error else None
        kind = type(error).__name__
        return {"refused": {"type": kind, "status": error.status_code, "code": code}}


def main() -> None:
    """Serve requests until the input ends."""
    client = Client(*(os.environ[name] for name in ("ARM_URL", "ARM_CA", "ARM_TOKEN", "ARM_SUB")))
    verbs = {name: getattr(client, name) for name in vars(Client) if not name.startswith("_")}
    for line in sys.stdin:
        print(json.dumps(_answer(verbs, line)), flush=True)


if __name__ == "__main__":
    main()
