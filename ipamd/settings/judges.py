"""Rows of one kind, and what is said about variables that ipamd does not act on."""

from __future__ import annotations

from ipamd.settings.rows import Group, Judge, OnBad, Said, Setting, Values, Weight
from ipamd.settings.values import flag, stripped


def note(text: str) -> Said:
    """Off, or without effect."""
    return Said(weight=Weight.NOTE, text=text)


def warning(text: str) -> Said:
    """Missing, though aws-node's default."""
    return Said(weight=Weight.WARNING, text=text)


def refusal(text: str) -> Said:
    """The start ends."""
    return Said(weight=Weight.REFUSAL, text=text)


def always(said: Said) -> Judge:
    """The same sentence for each value."""

    def judge(value: object, values: Values) -> Said | None:  # noqa: ARG001 - a Judge
        return said

    return judge


def by_value(**by_text: Said | None) -> Judge:
    """The sentence for each value, by its text; `other` for the rest."""

    def judge(value: object, values: Values) -> Said | None:  # noqa: ARG001 - a Judge
        text = str(value).lower()
        return by_text[text] if text in by_text else by_text["other"]

    return judge


def switch(name: str, group: Group, meaning: str, **more: str) -> Setting:
    """A switch that does as it says; a bad value falls back to its default."""
    return Setting(
        name=name,
        group=group,
        default=more.get("default", "false"),
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        meaning=meaning,
        chart=more.get("chart"),
        differs=more.get("differs", ""),
    )


def fixed_switch(
    name: str,
    group: Group,
    *,
    true: Said | None,
    false: Said | None,
    meaning: str,
    fixed: bool,
    default: str = "false",
    chart: str | None = None,
    differs: str = "",
    is_built: bool = False,
) -> Setting:
    """A switch that always stands at `fixed`, with a sentence for each of its values."""
    return Setting(
        name=name,
        group=group,
        default=default,
        chart=chart,
        parse=flag,
        on_bad=OnBad.FALL_BACK,
        range="true or false",
        differs=differs,
        is_built=is_built,
        judge=by_value(true=true, false=false),
        fixed="true" if fixed else "false",
        meaning=meaning,
    )


def idle(
    name: str,
    group: Group,
    why: str,
    meaning: str,
    *,
    default: str = "",
    chart: str | None = None,
    is_built: bool = False,
) -> Setting:
    """A variable of any text without effect; `is_built`: and none is planned."""
    return Setting(
        name=name,
        group=group,
        default=default,
        chart=chart,
        parse=stripped,
        on_bad=OnBad.FALL_BACK,
        range="any",
        differs=why,
        is_built=is_built,
        judge=always(note(f"has no effect: {why}")),
        fixed="",
        meaning=meaning,
    )


OFF = note("is off, as it always is here")


def refused_as(missing: str) -> Said:
    """The start ends, because the value asks for something that is missing."""
    return refusal(f"asks for {missing}")
