"""The values of one `load` while they are still settled, by the names of their variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from ipamd.settings.rows import Said, Weight
from ipamd.settings.values import Tags, shown

DEFAULT, ENV, FIXED, DERIVED = "default", "env", "fixed", "derived on the machine"
"""Origins of a value: FIXED holds whatever is asked for; a DERIVED one is the default until it is
known what kind of machine this is (`ipamd.derived`); the fifth is "forced by NAME"."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """What is known so far, and what is to be said about it."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def flag(self, name: str) -> bool:
        """A switch."""
        value = self.values[name]
        assert isinstance(value, bool)
        return value

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """A text, which may be empty."""
        value = self.values[name]
        assert isinstance(value, str)
        return value

    def path(self, name: str) -> Path | None:
        """A path; None where the text was empty."""
        value = self.values[name]
        assert value is None or isinstance(value, Path)
        return value

    def tags(self, name: str) -> Tags:
        """Pairs of key and value."""
        value = self.values[name]
        assert isinstance(value, tuple)
        return value

    def networks(self, name: str) -> tuple[IPv4Network, ...]:
        """A settled list of networks."""
        return tuple(IPv4Network(word) for word in self.text(name).split(",") if word)

    def is_set(self, name: str) -> bool:
        """Whether the environment has a usable value for it, and that value holds."""
        return self.origins[name] == ENV

    def force(self, name: str, value: object, *, by: str) -> None:
        """Let `value` hold because of the variable `by`; said if something else was set."""
        if self.values[name] == value:
            return
        if self.is_set(name):
            self.note(name, f"has no effect: {by} forces it")
        self.values[name], self.origins[name] = value, f"forced by {by}"

    def note(self, name: str, text: str) -> None:
        """Say that a value has no effect, or turns something off."""
        self.say(name, Said(weight=Weight.NOTE, text=text))

    def say(self, name: str, said: Said) -> None:
        """Keep one sentence about the value of `name`."""
        lists = {
            Weight.NOTE: self.notes,
            Weight.WARNING: self.warnings,
            Weight.REFUSAL: self.refused,
        }
        lists[said.weight].append(f"{name}={shown(self.values[name])} {said.text}")
