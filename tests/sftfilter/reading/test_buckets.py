"""Buckets: a real S3 protocol server on loopback. Google's differs in its address only, which is checked here."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sftfilter.errors import DataError
from sftfilter.prompts import PromptFiles
from sftfilter.reading.places import filesystem
from sftfilter.reading.units import found
from tests.sftfilter.reading.test_files import ROWS, lines, read

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="mine"
    )
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="plain/a.jsonl", Body=lines(ROWS[:10]))
    client.put_object(Bucket="data", Key="plain/b.jsonl.gz", Body=gzip.compress(lines(ROWS[10:20])))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS[20:]), sink, row_group_size=4)
    client.put_object(Bucket="data", Key="columns/c.parquet", Body=sink.getvalue().to_pybytes())
    client.put_object(Bucket="data", Key="cut/d.jsonl.gz", Body=gzip.compress(lines(ROWS))[:-20])
    client.put_object(Bucket="data", Key="cut/e.parquet", Body=sink.getvalue().to_pybytes()[:-20])
    yield url
    moto.stop()


@pytest.fixture
def credentials(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in SECRETS:
        monkeypatch.setenv(name, "mine")
    return server


def test_files_folders_and_globs_in_a_bucket(credentials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"?endpoint_override={credentials}"
    for path, rows in (
        ("s3://data/plain/a.jsonl" + at, ROWS[:10]),
        ("s3://data/plain" + at, ROWS[:20]),
        ("s3://data/col*/*.parquet" + at, ROWS[20:]),
        (["s3://data/columns/c.parquet" + at, "s3://data/plain/*.gz" + at], ROWS[20:] + ROWS[10:20]),
    ):
        table = read(tmp_path, path).table("rollouts")
        assert table["completion"].to_pylist() == [r["completion"] for r in rows]
    monkeypatch.setenv("AWS_ENDPOINT_URL", credentials)
    again = read(tmp_path, "s3://data/plain")
    assert again.reused  # the address is no part of what was read
    assert sorted(set(again.table("rollouts")["source"].to_pylist())) == ["a.jsonl", "b.jsonl.gz"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://nobody/a.jsonl", "there is no bucket 'nobody'"),
        ("s3://data/plain/none.jsonl", "file not found: s3://data/plain/none.jsonl"),
        ("s3://data/plain/*.csv", r"no file matches s3://data/plain/\*.csv"),
        ("s3://data/cut/d.jsonl.gz", "s3://data/cut/d.jsonl.gz: .*(?s:.*)breaks off or is damaged after row"),
        ("s3://data/cut/e.parquet", "s3://data/cut/e.parquet: no whole Parquet file"),
        ("s3://data/plain/a.jsonl?endpoint_override=http://127.0.0.1:9", "the storage cannot be reached"),
        ("ftp://data/a.jsonl", "files are read from disk, s3:// and gs://"),
    ],
)
def test_what_a_bucket_cannot_give_is_said(
    credentials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", credentials)
    with pytest.raises(DataError, match=said):
        read(tmp_path, path)


def test_without_credentials_the_variables_are_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"access denied.*AWS_ACCESS_KEY_ID"):
        found(PromptFiles(kind="files", path=f"s3://data/plain/a.jsonl?endpoint_override={server}"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://key:hunter2@data/a.jsonl", "credentials do not belong in a spec"),
        ("s3://data/a.jsonl?region=x&secret_key=hunter2", "`secret_key` does not belong in a path"),
        ("s3://data/a.jsonl?secret_key=", "`secret_key` does not belong in a path"),
        ("s3://data/a.jsonl?secret=hunter2", "unknown option 'secret'; there are: endpoint_override, region"),
        ("gs://data/a.jsonl?key=hunter2", "unknown option 'key'; gs:// has none"),
    ],
)
def test_credentials_in_a_spec_are_refused_unread(path: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        PromptFiles(kind="files", path=["a.jsonl", path])
    assert "hunter2" not in str(refused.value)


def test_a_google_address_is_understood() -> None:
    system, path = filesystem("gs://anonymous@data/plain/a.jsonl")
    assert (system.type_name, path) == ("gcs", "data/plain/a.jsonl")
