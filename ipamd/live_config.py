"""What may change while the daemon runs: this node's own targets, and its ENIConfig.

Both come from files here (a controller or a person writes them); the reconciler looks at them at
the start of each cycle, which costs two stat calls while nothing changed. A file that cannot be
used leaves what was in force, and says so in `problems`. What neither the environment nor a file
says is derived once the cloud has told how fast it is (`ipamd.derived`).
"""

from __future__ import annotations

import structlog

from ipamd import derived, eniconfig, overrides
from ipamd.cloud import Capabilities
from ipamd.eniconfig import NetworkChoice
from ipamd.errors import SettingsError
from ipamd.model import SubnetId
from ipamd.settings import Settings

log = structlog.get_logger()


class LiveConfig:
    """The settings in force, and custom networking's choice of subnet and security groups."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings
        self._targets_stamp: overrides.Stamp | None = None
        self._network_stamp: overrides.Stamp | None = None
        self._network: NetworkChoice | None = None
        self._network_problem = ""
        self._target_problems: tuple[str, ...] = ()
        self._explicit = settings
        self._capabilities: Capabilities | None = None
        self.settings = settings
        self.derived: tuple[str, ...] = ()  # a sentence for each setting that was derived
        self._derive()
        self.refresh()

    def learn(self, capabilities: Capabilities) -> None:
        """The cloud has said what it can do, and how fast."""
        if capabilities != self._capabilities:
            self._capabilities = capabilities
            self._derive()

    def _derive(self) -> None:
        made = derived.derive(self._explicit, self._capabilities)
        is_news = made.sentences != self.derived
        self.settings, self.derived = made.settings, made.sentences
        if is_news and self._capabilities is not None:  # else there is more to be said soon
            log.info("settings_derived", derived=list(self.derived))

    @property
    def subnet_id(self) -> SubnetId | None:
        """Where custom networking makes ENIs; None without it, or while it has no usable file."""
        return self._network.subnet_id if self._network else None

    @property
    def security_group_ids(self) -> tuple[str, ...]:
        """The groups of new ENIs; empty: those of the primary ENI (as in aws-node)."""
        return self._network.security_group_ids if self._network else ()

    @property
    def can_create(self) -> bool:
        """Whether it is known where new ENIs belong."""
        return not self._base.has_custom_networking or self._network is not None

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the files cannot be used."""
        network = (self._network_problem,) if self._network_problem else ()
        return network + self._target_problems

    def refresh(self) -> None:
        """Take in files that changed since the last call."""
        self._refresh_targets()
        if self._base.has_custom_networking:
            self._refresh_network()

    def _refresh_targets(self) -> None:
        path = self._base.targets_file
        if path is None:
            return
        stamp = overrides.stamp_of(path)
        if stamp == self._targets_stamp:
            return
        self._targets_stamp = stamp
        self._explicit, self._target_problems = overrides.read(path, self._base)
        self._derive()
        log.info("targets_read", path=str(path), problems=list(self._target_problems))

    def _refresh_network(self) -> None:
        path = self._base.eni_config_file
        if path is None:
            self._network_problem = (
                "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG is true and VPC_IPAMD_ENICONFIG_FILE names no "
                "file: no ENI for pods can be made"
            )
            return
        stamp = overrides.stamp_of(path)
        if stamp == self._network_stamp:
            return
        self._network_stamp = stamp
        try:
            self._network = eniconfig.read(path, self._base.eni_config_name)
            self._network_problem = ""
        except SettingsError as e:
            self._network_problem = str(e)
        log.info("eniconfig_read", path=str(path), problem=self._network_problem)
