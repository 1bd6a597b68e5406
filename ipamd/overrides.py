"""Pool targets of this one node, from a file, in force without a restart.

The file (VPC_IPAMD_TARGETS_FILE) has lines NAME=value with the names, values and ranges of the
environment; `#` begins a comment. What it does not name, and what it names wrongly, stays as the
environment said. A file that is absent overrides nothing.

    stamp = stamp_of(path)                     # before the read: a change in between shows later
    in_force, warnings = read(path, settings)  # `settings` as loaded, without earlier overrides
    ...
    if stamp_of(path) != stamp: ...
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ipamd.settings import Settings
from ipamd.settings.rules import TARGETS
from ipamd.settings.table import TABLE

FIELDS: Mapping[str, str] = {
    "WARM_ENI_TARGET": "warm_enis",
    "WARM_IP_TARGET": "warm_addresses",
    "MINIMUM_IP_TARGET": "minimum_addresses",
    "WARM_PREFIX_TARGET": "warm_prefixes",
    "MAX_ENI": "max_enis",
    "VPC_IPAMD_MAX_PODS": "max_pods",
}
"""Variable -> field of Settings."""

PARSERS = {row.name: row.parse for row in TABLE if row.name in FIELDS}

BYTES_MAX = 1 << 16
"""Six lines and their comments need far less; more is another file by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What tells one state of a file from another without reading it."""

    mtime_ns: int
    size: int
    inode: int


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of the file behind `path`, links followed; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(mtime_ns=found.st_mtime_ns, size=found.st_size, inode=found.st_ino)


def read(path: Path, settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings with the file's overrides, and a warning for each line that has no effect."""
    try:
        text = _text(path)
    except FileNotFoundError:
        return settings, ()
    except (OSError, ValueError) as e:
        return settings, (f"VPC_IPAMD_TARGETS_FILE {path} is not used: {e}",)
    return overridden(settings, text, str(path))


def _text(path: Path) -> str:
    # Without O_NONBLOCK the open of a named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        raw = file.read(BYTES_MAX + 1)
    if len(raw) > BYTES_MAX:
        raise ValueError(f"it has more than {BYTES_MAX} bytes")
    return raw.decode()


def overridden(settings: Settings, text: str, source: str) -> tuple[Settings, tuple[str, ...]]:
    """Pure `read`: the settings with the overrides of a text, and the warnings."""
    fields: dict[str, int] = {}
    said: set[str] = set()
    warnings: list[str] = []
    for where, line in _lines(text, source):
        try:
            name, value = _override(line)
        except ValueError as e:
            warnings.append(f"{where} {line[:80]!r} is not used: {e}")
            continue
        if FIELDS[name] in fields:
            warnings.append(f"{where}: {name} is there twice, the last counts")
        fields[FIELDS[name]] = value
        said.add(name)
    made = replace(settings, **fields)  # type: ignore[arg-type]  # all of FIELDS are whole numbers
    made = replace(made, unset_targets=settings.unset_targets - said)
    is_derived = made.cloud == "azure" and {*TARGETS} <= made.unset_targets
    has_target = made.warm_prefixes or made.warm_addresses or made.minimum_addresses
    if made.use_prefixes and not has_target and not is_derived:
        # What ends a start must not come in by this door; the pool would never grow ahead.
        warnings.append(
            f"{source} is not used: with prefixes one of WARM_PREFIX_TARGET, WARM_IP_TARGET and "
            "MINIMUM_IP_TARGET must be above 0"
        )
        made = settings
    return made, tuple(warnings)


def _lines(text: str, source: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split("#", 1)[0].strip()
        if content:
            yield f"{source}, line {number}", content


def _override(line: str) -> tuple[str, int]:
    """One line's variable and value. Raises ValueError that says what is wrong."""
    name, equals, text = (part.strip() for part in line.partition("="))
    if not equals:
        raise ValueError("it must be NAME=value")
    if name not in FIELDS:
        raise ValueError(f"only {', '.join(FIELDS)} can be overridden")
    try:
        value = PARSERS[name](text)
    except ValueError as e:
        raise ValueError(f"the value must be {e}") from None
    assert isinstance(value, int)
    # As in the environment: MAX_ENI below 1 means the instance type's limit, which is 0 here.
    return name, max(value, 0)
