"""What `ipamctl max-pods` prints: pure functions from answers to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ipamd.sizing import InstanceType, Mode, Sizing, Step, recommended_cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One type and its size. `notes` are the size's own and those of the question."""

    kind: InstanceType
    sizing: Sizing
    notes: tuple[str, ...]


def one(answer: Answer, output: str | None, *, explain: bool) -> str:
    """The answer for one type; without an output format the number alone, or its explanation."""
    match output:
        case "json":
            return json_text(document(answer, explain=explain))
        case "kubelet":
            return kubelet(answer, explain=explain)
        case None if not explain:
            return f"{answer.sizing.pods}\n"
        case None:
            return explanation(answer)
        case _:
            return many([answer], output, explain=explain)


def many(answers: Sequence[Answer], output: str | None, *, explain: bool) -> str:
    """The answer for many types: csv, json, a table, or every explanation after the other."""
    match output:
        case "json":
            return json_text([document(a, explain=explain) for a in answers])
        case "csv":
            return csv(answers)
        case _ if explain:
            return "\n".join(map(explanation, answers))
        case _:
            return table(answers)


def csv(answers: Iterable[Answer]) -> str:
    """A header and a line a type. No cell needs quotes: names are letters, digits, - and a dot."""
    rows = (f"{a.kind.name},{a.sizing.pods}\n" for a in answers)
    return "instance_type,max_pods\n" + "".join(rows)


def table(answers: Sequence[Answer]) -> str:
    """Columns for people, with the calculation on the right."""
    rows = [
        ("instance type", "max pods", "mode", "how"),
        *(
            (a.kind.name, str(a.sizing.pods), a.sizing.mode.value, expression(a.sizing))
            for a in answers
        ),
    ]
    first, second, third = (max(len(row[i]) for row in rows) for i in range(3))
    return "".join(f"{a:<{first}}  {b:>{second}}  {c:<{third}}  {d}\n" for a, b, c, d in rows)


def explanation(answer: Answer) -> str:
    """The steps, a line each, and the inputs above them."""
    kind, sizing = answer.kind, answer.sizing
    cards = ",".join(map(str, kind.card_enis))
    hardware = "bare metal" if kind.is_bare_metal else kind.hypervisor
    head = (
        f"{kind.name}: {sizing.pods} pods, {sizing.mode.value}\n"
        f"  {kind.vcpus} vCPUs, {hardware}; ENIs by network card: {cards};"
        f" {kind.addresses_per_eni} IPv4 addresses per ENI\n"
    )
    return head + step_lines(sizing.steps)


def step_lines(steps: Sequence[Step]) -> str:
    """A line for each step, the values below one another."""
    width = max(len(str(step.value)) for step in steps)
    return "".join(f"  {step.sign:>3} {step.value:>{width}}  {step.text}\n" for step in steps)


def expression(sizing: Sizing) -> str:
    """The steps on one line: (3 - 1) x 9 x 16 + 2; min(8 x 29 + 2, 110)."""
    if sizing.mode is Mode.IPV6:
        return f"min(2^48 + 2, {sizing.pods})"
    steps = sizing.steps
    first_total = next(i for i, step in enumerate(steps) if step.sign == "=")
    enis = _joined(steps[:first_total])
    text = f"({enis})" if " " in enis and not enis.endswith(")") else enis
    for step in steps[first_total:]:
        text = _applied(text, step)
    return text


def _joined(steps: Sequence[Step]) -> str:
    text = ""
    for step in steps:
        text = _applied(text, step)
    return text


def _applied(text: str, step: Step) -> str:
    match step.sign:
        case "":
            return str(step.value)
        case "=":
            return text
        case "min" | "max":
            return f"{step.sign}({text}, {step.value})"
        case _:
            return f"{text} {step.sign} {step.value}"


def kubelet(answer: Answer, *, explain: bool) -> str:
    """The KubeletConfiguration for one type."""
    how = explanation(answer) if explain else f"{answer.kind.name}: {expression(answer.sizing)}\n"
    return kubelet_configuration(answer.sizing.pods, how)


def kubelet_configuration(pods: int, how: str) -> str:
    """A KubeletConfiguration to drop in (kubelet.config.k8s.io/v1beta1, field maxPods), below how
    the number came about."""
    comment = "".join(f"# {line}\n" for line in how.splitlines())
    return (
        f"{comment}apiVersion: kubelet.config.k8s.io/v1beta1\n"
        f"kind: KubeletConfiguration\nmaxPods: {pods}\n"
    )


def document(answer: Answer, *, explain: bool) -> dict[str, Any]:
    """What a program reads; the steps only where they are asked for."""
    kind, sizing = answer.kind, answer.sizing
    fields: dict[str, Any] = {
        "instance_type": kind.name,
        "max_pods": sizing.pods,
        "mode": sizing.mode.value,
        "pod_enis": sizing.enis,
        "pod_addresses": sizing.pod_addresses,
        "vcpus": kind.vcpus,
        "recommended_cap": recommended_cap(kind.vcpus),
        "notes": list(answer.notes),
    }
    if explain:
        fields["steps"] = step_documents(sizing.steps)
    return fields


def step_documents(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as a program reads them."""
    return [{"sign": step.sign, "value": step.value, "text": step.text} for step in steps]


def json_text(value: Any) -> str:
    """A JSON document and its line's end."""
    import json  # the other formats do without

    return json.dumps(value, indent=2) + "\n"
