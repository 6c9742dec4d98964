"""Catalogs on object stores: what is pushed is what is read, and nothing in between is seen."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem

from catalog import mirror
from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.mirror import fetch_catalog, mirror_of, push_catalog, remote_url
from catalog.store import Catalog
from catalog.types import register_types
from live.trial_records import ledger_of
from tests.catalog.builders import BTC, BTC_15M, bars, every_kind, funding


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(mirror.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["fsspec+memory://{name}", "file://{folder}/store"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(name=uuid.uuid4().hex, folder=tmp_path)


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    register_types()
    assert not catalog.ingest(every_kind()).refused
    return catalog


def files(url: str) -> list[str]:
    from pyarrow.fs import FileSelector

    store, base = FileSystem.from_uri(url)
    return [one.path for one in store.get_file_info(FileSelector(base, recursive=True))]


def overwrite(url: str, ending: str, data: bytes) -> None:
    store, _ = FileSystem.from_uri(url)
    path = next(path for path in files(url) if path.endswith(ending))
    with store.open_output_stream(path) as stream:
        stream.write(data)


def test_what_is_read_is_what_was_pushed(filled: Catalog, url: str) -> None:
    assert push_catalog(filled.path, url) == len(filled.manifest.files())
    found = Catalog.open(Path(url))  # a path loses a slash of a URL
    assert found.path == mirror_of(url)
    requests = [(record.kind, record.series, None, None) for record in filled.manifest.series]
    assert found.data_hash(requests) == filled.data_hash(requests)
    assert found.nautilus_bars(BTC, "15m") == filled.nautilus_bars(BTC, "15m")
    assert push_catalog(filled.path, url) == 0
    assert not [path for path in files(url) if path.endswith(".partial")]


def test_only_what_is_new_travels(filled: Catalog, url: str) -> None:
    push_catalog(filled.path, url)
    fetch_catalog(url)
    filled.ingest([bars(8, 8, source="later")])
    told: list[tuple[str, int, int]] = []
    sent = push_catalog(filled.path, url)
    assert 0 < sent < len(filled.manifest.files())
    fetch_catalog(url, progress=lambda *seen: told.append(seen))
    assert told[-1] == ("fetch", sent, sent)
    found = Catalog.open(url)
    assert len(found.bars(BTC, "15m")) == 16
    assert found.nautilus_bars(BTC, "15m") == filled.nautilus_bars(BTC, "15m")
    assert not found.reader.strays(found.reader.series("bars", BTC_15M))
    fetch_catalog(url, progress=lambda *seen: told.clear())
    assert told  # nothing was to be brought, so nobody was told


def test_a_push_that_ends_half_way_leaves_the_state_before(
    filled: Catalog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_catalog(filled.path, url)
    before = fetch_catalog(url)
    filled.ingest([funding(5, 3)])
    real, written = mirror._write, []

    def fail(store: FileSystem, path: str, data: bytes) -> None:
        if path.endswith(".json"):
            raise OSError("connection lost")
        written.append(path)
        real(store, path, data)

    monkeypatch.setattr(mirror, "_write", fail)
    with pytest.raises(DataError, match=r"must be a store that answers .* connection lost"):
        push_catalog(filled.path, url)
    assert written
    assert fetch_catalog(url) == before
    assert len(Catalog.open(before).funding(BTC).value) == 5
    monkeypatch.setattr(mirror, "_write", real)
    push_catalog(filled.path, url)
    assert len(Catalog.open(url).funding(BTC).value) == 8


def test_a_damaged_object_is_not_taken(filled: Catalog, url: str) -> None:
    push_catalog(filled.path, url)
    overwrite(url, ".parquet", b"other bytes")
    with pytest.raises(IntegrityError, match="must have the SHA-256"):
        fetch_catalog(url)
    assert not (mirror_of(url) / "manifest").exists()


def test_another_catalog_is_not_overwritten(filled: Catalog, url: str, tmp_path: Path) -> None:
    push_catalog(filled.path, url)
    other = Catalog.open(tmp_path / "other", create=True)
    other.ingest([bars(source="elsewhere")])
    with pytest.raises(DataError, match="must hold nothing or an earlier state"):
        push_catalog(other.path, url)


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must be a folder or a URL such as s3://"):
        fetch_catalog("gopher://somewhere/catalog")
    with pytest.raises(DataError, match="holds none"):
        fetch_catalog(f"fsspec+memory://{uuid.uuid4().hex}")
    with pytest.raises(DataError, match="must be a folder with a commit"):
        push_catalog(tmp_path, "fsspec+memory://nothing")
    with pytest.raises(DataError, match="that is written must be a folder"):
        Catalog.open("s3://bucket/catalog", create=True)
    monkeypatch.delenv("LEVIBOT_TRIALS", raising=False)
    with pytest.raises(ConfigError, match="ledger of trials must be a file of a disk"):
        ledger_of(Path("s3://bucket/catalog"))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("s3://bucket/catalog", "s3://bucket/catalog"),
        ("s3:/bucket/catalog", "s3://bucket/catalog"),
        ("s3:/b/c?endpoint_override=host:9000&scheme=http", None),
        ("file:/tmp/catalog", "file:///tmp/catalog"),
        ("data/catalog", None),
        ("/data/catalog", None),
        ("C:/data", None),
    ],
)
def test_a_url_is_told_from_a_folder(name: str, url: str | None) -> None:
    if "?" in name:
        url = name.replace(":/", "://", 1)
    assert remote_url(Path(name)) == remote_url(name) == url
