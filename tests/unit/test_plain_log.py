from __future__ import annotations

import io
import json

from ipamd.plain_log import PlainLog


def lines(file: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_line_is_json_with_its_facts() -> None:
    file = io.StringIO()
    PlainLog("info", process="cloud", file=file).info("model_used", size=3)
    (line,) = lines(file)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "model_used", "level": "info", "process": "cloud", "size": 3}


def test_an_exception_brings_its_traceback() -> None:
    file = io.StringIO()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        PlainLog("error", process="cloud", file=file).exception("failed", method="limits")
    (line,) = lines(file)
    assert str(line["exception"]).endswith("ZeroDivisionError")
    assert line["method"] == "limits"


def test_what_is_below_the_level_is_not_said() -> None:
    file = io.StringIO()
    PlainLog("warning", process="cloud", file=file).info("model_used")
    assert file.getvalue() == ""
