"""`--refresh` and `--instance-type-from-imds`: one process that asks, one that writes."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import boto3
import pytest
from moto import mock_aws

from ipamd.cli.main import main
from ipamd.cli.max_pods_cloud import LookupFailed, ask, refresh
from ipamd.instance_types import TableError, load, to_row
from providers.aws.instance_types import describe_all

NOW = dt.datetime(2026, 11, 5, 4, 3, tzinfo=dt.UTC)
ROW = "m5.large\t2\tnitro\tno\t0\t4\t10\t10"
NEW_ROW = "z9.large\t2\tnitro\tno\t0\t3\t20\t20"


def answers(*lines: str) -> Sequence[str]:
    return lines


def test_a_refresh_writes_what_ec2_says_over_the_bundled_table(tmp_path: Path) -> None:
    path = tmp_path / "types.tsv"
    said = refresh(path, lambda _: answers("eu-west-1", ROW, NEW_ROW), NOW)
    table, bundled = load(path), load()
    assert said == (
        f"{path} written: DescribeInstanceTypes, 2 answers of eu-west-1 at 2026-11-05T04:03Z; "
        "new: z9.large; changed: m5.large; kept because the region does not offer them: "
        f"{len(bundled.types) - 1}"
    )
    assert (table.types["m5.large"].max_enis, len(table.types)) == (4, len(bundled.types) + 1)


def test_a_second_region_is_put_over_the_first(tmp_path: Path) -> None:
    path = tmp_path / "types.tsv"
    refresh(path, lambda _: answers("eu-west-1", NEW_ROW), NOW)
    refresh(path, lambda _: answers("us-east-1", ROW), NOW)
    assert (load(path).types["z9.large"].max_enis, load(path).types["m5.large"].max_enis) == (3, 4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(("eu-west-1",), "no instance type at all in eu-west-1", id="nothing"),
        pytest.param(("eu-west-1", "m5.large\t2"), "2 columns instead of 8", id="no row"),
    ],
)
def test_a_refresh_that_brings_nothing_writes_nothing(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LookupFailed, match=message):
        refresh(tmp_path / "types.tsv", lambda _: lines, NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be written"):
        refresh(tmp_path / "gone" / "types.tsv", lambda _: answers("eu-west-1", ROW), NOW)


def test_a_file_that_is_no_table_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(TableError, match="no table"):
        refresh(tmp_path / "notes.txt", lambda _: answers("eu-west-1", ROW), NOW)
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


def test_describe_all_through_boto3_gives_the_bundled_rows() -> None:
    with mock_aws():
        ec2 = boto3.client(
            "ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        fresh = describe_all(ec2)
    bundled = load().types
    assert {one.name: to_row(one) for one in fresh} == {
        one.name: to_row(bundled[one.name]) for one in fresh
    }
    assert len(fresh) > 500


def shape(name: str, enis: int) -> str:
    return f"""<item><instanceType>{name}</instanceType><hypervisor>nitro</hypervisor>
      <bareMetal>false</bareMetal><vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>
      <networkInfo><defaultNetworkCardIndex>0</defaultNetworkCardIndex>
        <maximumNetworkInterfaces>{enis}</maximumNetworkInterfaces>
        <ipv4AddressesPerInterface>20</ipv4AddressesPerInterface>
        <ipv6AddressesPerInterface>20</ipv6AddressesPerInterface>
        <networkCards><item><networkCardIndex>0</networkCardIndex>
          <maximumNetworkInterfaces>{enis}</maximumNetworkInterfaces></item></networkCards>
      </networkInfo></item>"""


PAGES = {
    "": shape("z9.large", 3) + "</instanceTypeSet><nextToken>second</nextToken>",
    "second": shape("m5.large", 4) + "</instanceTypeSet>",
}
DENIED = """<Response><Errors><Error><Code>UnauthorizedOperation</Code>
  <Message>You are not authorized to perform this operation.</Message></Error></Errors>
  <RequestID>r-1</RequestID></Response>"""


@dataclass(slots=True)
class Cloud:
    """EC2 and IMDS on one loopback port: two pages, or a refusal; a token, or none."""

    url: str = ""
    is_denied: bool = False
    has_imds: bool = True
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: str) -> tuple[int, str]:
        if path.startswith("/latest/"):
            self.asked.append(f"{method} {path}")
            if not self.has_imds:
                return 403, ""
            return 200, "token" if method == "PUT" else "m5.xlarge"
        words = parse_qs(body)
        self.asked.append(words["Action"][0])
        if self.is_denied:
            return 403, DENIED
        token = words.get("NextToken", [""])[0]
        return 200, (
            "<DescribeInstanceTypesResponse><requestId>r-1</requestId><instanceTypeSet>"
            f"{PAGES[token]}</DescribeInstanceTypesResponse>"
        )


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            status, text = made.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST  # noqa: N815 - the base's names

        def log_message(self, *args: object) -> None:
            """Tests need no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", made.url)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", made.url)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-this-test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_page_is_read_and_the_new_table_answers(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "types.tsv"
    words = ["max-pods", "--refresh", "--table", str(path), "--instance-type", "z9.large"]
    status = main(words)
    out, err = capsys.readouterr()
    assert (status, out, cloud.asked) == (0, "59\n", ["DescribeInstanceTypes"] * 2)
    assert "2 answers of eu-west-1" in err and "new: z9.large; changed: m5.large" in err


def test_a_refusal_names_the_call_and_the_code_and_writes_nothing(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.is_denied = True
    status = main(["max-pods", "--refresh", "--table", str(tmp_path / "types.tsv")])
    err = capsys.readouterr().err
    assert (status, list(tmp_path.iterdir())) == (4, [])
    assert "DescribeInstanceTypes" in err and "UnauthorizedOperation" in err
    assert "secret-of-this-test" not in err


def test_without_credentials_it_says_so(
    cloud: Cloud,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    status = main(["max-pods", "--refresh", "--table", str(tmp_path / "types.tsv")])
    assert (status, cloud.asked) == (4, [])
    assert "credentials" in capsys.readouterr().err


def test_the_instances_own_type_comes_from_imds_version_2(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["max-pods", "--instance-type-from-imds"]) == 0
    assert capsys.readouterr().out == "58\n"
    assert cloud.asked == ["PUT /latest/api/token", "GET /latest/meta-data/instance-type"]


def test_a_metadata_service_that_gives_no_token_is_named(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.has_imds = False
    assert main(["max-pods", "--instance-type-from-imds"]) == 4
    assert "refuses a token with 403" in capsys.readouterr().err


def test_an_unknown_question_fails_as_a_lookup() -> None:
    with pytest.raises(LookupFailed, match="usage"):
        ask("nonsense")
