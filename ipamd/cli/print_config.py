"""`ipamd --print-config`: each variable with the value that holds and where it comes from."""

from __future__ import annotations

import json

from ipamd.cli.status import table
from ipamd.settings import ROWS, Loaded
from ipamd.settings.values import shown


def page(loaded: Loaded, output: str) -> str:
    """The whole answer as text; `output` is table or json.

    The JSON document: {"settings": [{"name", "value", "origin", "status"}], "warnings": [text],
    "notes": [text]}. The origin is env, default, "forced by NAME", fixed where the value holds
    (or, being empty, nothing does) whatever is asked for, or "derived on the machine", where
    `ipamctl status` says what it is then.
    """
    rows = [
        {
            "name": row.name,
            "value": shown(loaded.values[row.name]),
            "origin": loaded.origins[row.name],
            "status": row.status,
        }
        for row in ROWS
    ]
    if output == "json":
        document = {"settings": rows, "warnings": loaded.warnings, "notes": loaded.notes}
        return json.dumps(document, indent=2) + "\n"
    lines = [
        (row["name"], row["value"] or "-", row["origin"], row["status"].split(":")[0])
        for row in rows
    ]
    said = [f"warning: {text}\n" for text in loaded.warnings]
    said += [f"note: {text}\n" for text in loaded.notes]
    return table(("VARIABLE", "VALUE", "ORIGIN", "STATUS"), lines) + "".join(said)
