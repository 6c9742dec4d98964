from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from adapters.errors import AdapterError, NotFoundError, RefusedError, RetryableError
from adapters.http import HttpClient, HttpConfig
from catalog.errors import DataError

DATA = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def waits():
    """How long the client wanted to wait, instead of waiting."""
    return []


@pytest.fixture
def client(waits):
    config = HttpConfig(retries=3, backoff_secs=1.0, requests_per_second=1e6, timeout_secs=5.0)
    with HttpClient(config, sleep=waits.append) as opened:
        yield opened


@pytest.fixture
def url(archive):
    archive.put("file.zip", DATA)
    return f"{archive.base_url}/file.zip"


def test_a_whole_file_appears_and_nothing_else(client, url, tmp_path):
    client.download(url, tmp_path / "deep" / "file.zip", SHA256)
    assert (tmp_path / "deep" / "file.zip").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.zip"]


@pytest.mark.parametrize(
    "fault", [("drop", ""), ("hang up", ""), ("status", "503"), ("corrupt", "")]
)
@pytest.mark.parametrize("times", [1, 3])
def test_what_passes_is_tried_again(client, url, archive, tmp_path, waits, fault, times):
    archive.faults["file.zip"] = [fault] * times
    client.download(url, tmp_path / "file.zip", SHA256)
    assert (tmp_path / "file.zip").read_bytes() == DATA
    assert archive.requests["file.zip"] == times + 1
    # Doubling from one second, with up to a quarter more.
    for number, wait in enumerate(waits):
        assert 2.0**number <= wait < 1.25 * 2.0**number
    assert len(waits) == times


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("drop", ""), "gave up after 4 attempts; the connection failed: IncompleteRead"),
        (("status", "429"), "gave up after 4 attempts; the server answered 429"),
        (("corrupt", ""), "gave up after 4 attempts; checksum must be .*: the file is corrupt"),
    ],
)
def test_what_does_not_pass_is_given_up(client, url, archive, tmp_path, fault, reason):
    archive.always["file.zip"] = fault
    with pytest.raises(AdapterError, match=reason):
        client.download(url, tmp_path / "file.zip", SHA256)
    assert list(tmp_path.iterdir()) == []
    assert archive.requests["file.zip"] == 4


def test_the_server_says_how_long_to_wait(client, url, archive, waits):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    archive.faults["file.zip"] = [("status", "429 7"), ("status", f"503 {soon}")]
    client.text(url)
    assert waits[0] == 7.0
    assert waits[1] == pytest.approx(20.0, abs=3.0)


@pytest.mark.parametrize("header", ["soon", "-3", "12 parsecs"])
def test_a_wait_that_cannot_be_read_is_ignored(client, url, archive, waits, header):
    archive.faults["file.zip"] = [("status", f"503 {header}")]
    client.text(url)
    assert 1.0 <= waits[0] < 1.25


def test_a_wait_that_is_too_long_is_told(client, url, archive, waits):
    archive.faults["file.zip"] = [("status", "429 3600")]
    with pytest.raises(RefusedError, match="asks to wait 3600 s, longer than max_wait_secs=60"):
        client.text(url)
    assert waits == []


def test_what_is_not_there_is_not_asked_for_again(client, archive, waits):
    with pytest.raises(NotFoundError, match=r"absent.zip: not found \(404\)"):
        client.text(f"{archive.base_url}/absent.zip")
    assert archive.requests["absent.zip"] == 1
    assert waits == []


def test_a_refusal_is_not_repeated(client, url, archive):
    archive.always["file.zip"] = ("status", "403")
    with pytest.raises(RefusedError, match=r"file\.zip: the server answered 403 Forbidden"):
        client.text(url)
    assert archive.requests["file.zip"] == 1


def test_nobody_listens(client, waits):
    with pytest.raises(
        AdapterError, match=r"gave up after 4 attempts; the connection failed: .*efused"
    ):
        client.text("http://127.0.0.1:9/file.zip")
    assert len(waits) == 3


@pytest.mark.parametrize("url", ["file.zip", "ftp://127.0.0.1/file.zip", "http://"])
def test_an_address_that_is_none(client, url, waits):
    with pytest.raises(RefusedError, match="address must be a full http"):
        client.text(url)
    assert waits == []


def test_requests_are_spread_over_time(archive, url):
    waits = []
    config = HttpConfig(requests_per_second=2.0)
    with HttpClient(config, sleep=waits.append) as polite:
        for _ in range(4):
            polite.text(url)
    # The sleeps are not slept: the n-th request would start n halves of a second after the first.
    assert waits == pytest.approx([0.5, 1.0, 1.5], abs=0.2)


def test_every_failure_is_a_data_error():
    for kind in (RetryableError, NotFoundError, RefusedError):
        assert issubclass(kind, AdapterError)
    assert issubclass(AdapterError, DataError)
