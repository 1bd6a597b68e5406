"""`ipamctl max-pods` from the command line: answers, formats, notes, exit statuses."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ipamd.cli.main import main
from ipamd.cli.max_pods import TABLE_VARIABLE
from ipamd.instance_types import BUNDLED, load

ROOT = Path(__file__).resolve().parents[2]
PREFIXES = "--cni-prefix-delegation-enabled"
CUSTOM = "--cni-custom-networking-enabled"


@pytest.fixture(autouse=True)
def no_table_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TABLE_VARIABLE, raising=False)


class Asked:
    """One run: exit status, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        try:
            self.status = main(["max-pods", *words])
        except SystemExit as e:  # argparse's own refusal
            self.status = int(str(e.code))
        self.out, self.err = capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "out"),
    [
        pytest.param(["--instance-type", "m5.large"], "29\n", id="the number alone"),
        pytest.param(["--instance-type", "c5.4xlarge"], "234\n", id="no cap unasked"),
        pytest.param(["--instance-type", "c5.4xlarge", "--vcpu-cap"], "110\n", id="cap asked for"),
        pytest.param(
            ["--instance-type", "c5.4xlarge", "--show-max-allowed"], "234\n", id="no cap, said"
        ),
        pytest.param(
            ["--instance-type", "m5.8xlarge", "--cni-version", "1.11.2", PREFIXES, "--vcpu-cap"],
            "250\n",
            id="the large cap",
        ),
        pytest.param(
            ["--instance-type", "m5.large", "--cni-version", "1.8.9", PREFIXES],
            "29\n",
            id="a version without prefixes",
        ),
        pytest.param(
            ["--instance-type", "m5.large", "--cni-version", "v1.10.0-eksbuild.1", PREFIXES],
            "434\n",
            id="1.10 is newer than 1.9",
        ),
        pytest.param(
            ["--instance-type", "m5.large", PREFIXES, CUSTOM, "--cni-max-eni", "2"],
            "146\n",
            id="prefixes, custom networking and MAX_ENI",
        ),
        pytest.param(["--instance-type", "m5.large", "--pod-eni"], "20\n", id="trunk"),
        pytest.param(["--instance-type", "t3.large", "--pod-eni"], "35\n", id="no trunk on T"),
        pytest.param(["--instance-type", "p4d.24xlarge", "--cards", "all"], "2942\n", id="cards"),
        pytest.param(["--instance-type", "m5.24xlarge", "--ipv6"], "250\n", id="IPv6"),
        pytest.param(
            ["--instance-type", "p4d.24xlarge", "--reserved-enis", "3"], "590\n", id="reserved"
        ),
        pytest.param(
            ["--instance-type", "m5.large", "-o", "csv"],
            "instance_type,max_pods\nm5.large,29\n",
            id="csv",
        ),
        pytest.param(
            ["--instance-type", "m5.large", CUSTOM, "-o", "kubelet"],
            "# m5.large: (3 - 1) x 9 + 2\n"
            "apiVersion: kubelet.config.k8s.io/v1beta1\n"
            "kind: KubeletConfiguration\n"
            "maxPods: 20\n",
            id="kubelet",
        ),
    ],
)
def test_it_answers(capsys: pytest.CaptureFixture[str], words: list[str], out: str) -> None:
    asked = Asked(capsys, *words)
    assert (asked.status, asked.out) == (0, out)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        pytest.param([], 2, "name a type", id="no type"),
        pytest.param(["--instance-type", "m5.lrage"], 3, "m5.large", id="unknown type"),
        pytest.param(
            ["--instance-type", "m5.large", "--ipv6", CUSTOM],
            2,
            "exclude each other",
            id="IPv6 and custom networking",
        ),
        pytest.param(
            ["--instance-type", "m4.large", "--ipv6"], 2, "m4.large: .*Nitro", id="IPv6 on Xen"
        ),
        pytest.param(
            ["--instance-type", "m3.large", "--ipv6"], 2, "no IPv6 addresses", id="no IPv6 at all"
        ),
        pytest.param(
            ["--all", "--ipv6", "--show-max-allowed"], 2, "bound nothing", id="IPv6 uncapped"
        ),
        pytest.param(["--all", "-o", "kubelet"], 2, "one node", id="kubelet for all"),
        pytest.param(["--all", "-o", "csv", "--explain"], 2, "no room", id="csv explained"),
        pytest.param(["--all", "--instance-type", "m5.large"], 2, "not allowed with", id="both"),
        pytest.param(
            ["--all", "--vcpu-cap", "--show-max-allowed"], 2, "not allowed with", id="cap and not"
        ),
        pytest.param(["--all", "--cni-version", "new"], 2, "no version", id="no version"),
        pytest.param(["--all", "--cni-max-eni", "0"], 2, "above 0", id="no ENI"),
        pytest.param(["--all", "--reserved-enis", "-1"], 2, "no number", id="fewer than no ENI"),
        pytest.param(["--refresh"], 2, "give --table", id="refresh without a place"),
        pytest.param(["--all", "--table", "gone.tsv"], 4, "cannot be read", id="no such table"),
    ],
)
def test_what_cannot_be_answered_says_why(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    asked = Asked(capsys, *words)
    assert (asked.status, asked.out) == (status, "")
    assert re.search(message, asked.err), asked.err


@pytest.mark.parametrize(
    ("words", "note"),
    [
        pytest.param([PREFIXES], "110 pods are recommended at most for 2", id="above the cap"),
        pytest.param([PREFIXES, "--vcpu-cap"], "", id="capped"),
        pytest.param([PREFIXES, "--show-max-allowed"], "", id="uncapped on purpose"),
        pytest.param([], "", id="below the cap"),
        pytest.param([PREFIXES, "--cni-version", "1.8.0"], "before 1.9.0", id="old version"),
        pytest.param(["--ipv6"], "addresses bound nothing", id="IPv6"),
    ],
)
def test_what_a_person_should_know_is_a_note_beside_the_answer(
    capsys: pytest.CaptureFixture[str], words: list[str], note: str
) -> None:
    asked = Asked(capsys, "--instance-type", "m5.large", *words)
    assert (note in asked.err) if note else (asked.err == "")


def test_an_explanation_shows_the_inputs_and_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(capsys, "--instance-type", "m5.large", PREFIXES, CUSTOM, "--explain")
    assert asked.out == (
        "m5.large: 290 pods, prefixes\n"
        "  2 vCPUs, nitro; ENIs by network card: 3; 10 IPv4 addresses per ENI\n"
        "        3  ENIs on network card 0, the default\n"
        "    -   1  the primary ENI (custom networking)\n"
        "    =   2  ENIs for pods\n"
        "    x   9  slots of an ENI: 10 addresses less its own\n"
        "    x  16  addresses of a /28 in a slot\n"
        "    = 288  addresses for pods\n"
        "    +   2  pods with the node's own address\n"
        "    = 290  pods\n"
    )


def test_json_carries_the_notes_and_the_steps_that_were_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--instance-type", "m5.large", PREFIXES, "-o", "json")
    plain = json.loads(Asked(capsys, *words).out)
    explained = json.loads(Asked(capsys, *words, "--explain").out)
    assert plain == {
        "instance_type": "m5.large",
        "max_pods": 434,
        "mode": "prefixes",
        "pod_enis": 3,
        "pod_addresses": 432,
        "vcpus": 2,
        "recommended_cap": 110,
        "notes": ["110 pods are recommended at most for 2 vCPUs; --vcpu-cap applies it"],
    }
    steps = explained.pop("steps")
    assert (explained, steps[0]["value"], steps[-1]) == (
        plain,
        3,
        {"sign": "=", "value": 434, "text": "pods"},
    )


def test_a_kubelet_fragment_can_carry_its_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(capsys, "--instance-type", "m5.large", "-o", "kubelet", "--explain")
    lines = asked.out.splitlines()
    assert [line for line in lines if not line.startswith("# ")] == [
        "apiVersion: kubelet.config.k8s.io/v1beta1",
        "kind: KubeletConfiguration",
        "maxPods: 29",
    ]
    assert len(lines) > 8


def test_all_types_as_csv_have_the_uncapped_secondary_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = list(csv.reader(io.StringIO(Asked(capsys, "--all", "-o", "csv").out)))
    table = load()
    expected = [
        [name, str(one.card_enis[one.default_card] * (one.addresses_per_eni - 1) + 2)]
        for name, one in table.types.items()
    ]
    assert rows == [["instance_type", "max_pods"], *expected]


ALL_MODES = {
    "secondary": [],
    "prefixes": [PREFIXES],
    "custom": [CUSTOM, "--cards", "all"],
    "everything": [PREFIXES, CUSTOM, "--pod-eni", "--cards", "all", "--cni-max-eni", "4"],
    "nothing left": [CUSTOM, "--reserved-enis", "20", "--vcpu-cap"],
    "capped": [PREFIXES, "--vcpu-cap"],
}


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_calculation_shown_in_the_table_gives_the_number(
    capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    head, *lines = Asked(capsys, "--all", *ALL_MODES[mode]).out.splitlines()
    rows = [re.split(r"  +", line) for line in lines]
    wrong = [row for row in rows if eval(row[3].replace(" x ", " * ")) != int(row[1])]
    assert (wrong, len(rows)) == ([], len(load().types))
    assert head.split() == ["instance", "type", "max", "pods", "mode", "how"]


def test_for_all_types_each_note_comes_once_with_its_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = Asked(capsys, "--all", "--ipv6", "-o", "json")
    without = sum(not one.has_prefixes for one in load().types.values())
    answers = json.loads(asked.out)
    assert len(answers) == len(load().types) - without
    assert {a["max_pods"] for a in answers} == {110, 250}
    assert f"{len(answers)} types: addresses bound nothing" in asked.err
    assert asked.err.count("left out") == 2  # Xen without prefixes, and without any IPv6


def test_every_explanation_of_all_types_is_one_block(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = Asked(capsys, "--all", "--explain").out.split("\n\n")
    assert len(blocks) == len(load().types)


def test_another_table_is_used_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "types.tsv"
    table.write_text(
        BUNDLED.read_text().replace("m5.large\t2\tnitro\tno\t0\t3", "m5.large\t2\tnitro\tno\t0\t4")
    )
    monkeypatch.setenv(TABLE_VARIABLE, str(table))
    asked = Asked(capsys, "--instance-type", "m5.large")
    assert (asked.out, str(table) in asked.err) == ("38\n", True)


HEAVY = (
    "grpc",
    "google",
    "boto3",
    "botocore",
    "structlog",
    "pyroute2",
    "prometheus_client",
    "asyncio",
)


def test_nothing_heavy_is_loaded_on_the_way() -> None:
    program = (
        "import sys; from ipamd.cli.main import main; main(['max-pods', '--all', '-o', 'csv']);"
        f"sys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (ran.stderr, ran.stdout.count("\n")) == ("", len(load().types) + 1)


def script(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/max-pods", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_script_answers_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "ipamd").mkdir()
    (tmp_path / "ipamd/__init__.py").write_text("raise SystemExit('the wrong ipamd')")
    ran = script("--instance-type", "m5.large", "--cni-version", "1.19.0", cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "29\n", "")


def test_the_script_passes_the_exit_status_on(tmp_path: Path) -> None:
    ran = script("--instance-type", "m5.lrage", cwd=tmp_path)
    assert (ran.returncode, "m5.large" in ran.stderr) == (3, True)


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{ROOT}/scripts/max-pods' --all --explain | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
