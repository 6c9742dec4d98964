from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import DataError, IntegrityError
from catalog.query import VIEWS, connect
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY
from tests.catalog.builders import BTC, START, bars, every_kind, onchain


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    catalog.ingest(every_kind())
    return catalog


def test_views_hold_what_the_catalog_reads(filled: Catalog) -> None:
    connection = connect(filled.path)
    for info in filled.series():
        (count,) = connection.sql(f"SELECT count(*) FROM {VIEWS[info.kind]}").fetchall()[0]
        assert count == info.rows
    rows = connection.sql(
        "SELECT epoch_ns(ts_init), open, high, low, close, volume FROM bars ORDER BY ts_init"
    ).fetchnumpy()
    columns = filled.bars(BTC, "15m")
    assert next(iter(rows.values())).tolist() == columns.ts_init.tolist()
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(rows[name], getattr(columns, name), rtol=1e-15)


def test_columns_have_names_and_types_for_people(filled: Catalog) -> None:
    connection = connect(filled.path)
    sql = "SELECT instrument, interval, ts_event, ts_init, close FROM bars ORDER BY ts_init LIMIT 1"
    ((instrument, interval, ts_event, ts_init, close),) = connection.sql(sql).fetchall()
    assert (instrument, interval) == (BTC, "15m")
    assert ts_event == ts_init == datetime(2024, 1, 1, 0, 15)  # noqa: DTZ001 - UTC by contract
    assert isinstance(close, float)
    assert connection.sql("SELECT instrument, rate FROM funding").limit(1).fetchall() == [
        (BTC, 0.0)
    ]
    assert connection.sql("SELECT DISTINCT series, unit FROM index_levels").fetchall() == [
        ("dvol.btc", "percent per year")
    ]
    assert connection.sql("SELECT ts_published FROM news ORDER BY 1").limit(1).fetchall() == [
        (datetime(2024, 1, 1),)  # noqa: DTZ001 - UTC by contract
    ]


def test_a_session_in_another_zone_shows_the_same_times(filled: Catalog) -> None:
    connection = connect(filled.path)
    before = connection.sql("SELECT min(ts_init) FROM bars").fetchall()
    connection.execute("SET TimeZone = 'America/New_York'")
    assert connection.sql("SELECT min(ts_init) FROM bars").fetchall() == before


def test_empty_kinds_are_empty_views_of_the_same_columns(catalog: Catalog, tmp_path: Path) -> None:
    full = Catalog.open(tmp_path / "full", create=True)
    full.ingest(every_kind())
    for view in VIEWS.values():
        described = [
            [row[:2] for row in connect(c.path).sql(f"DESCRIBE {view}").fetchall()]
            for c in (catalog, full)
        ]
        assert described[0] == described[1]
        assert connect(catalog.path).sql(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]


def test_vintages_are_beside_the_first_not_among_it(catalog: Catalog) -> None:
    known_at = START + 100 * NS_PER_DAY
    catalog.ingest([onchain({"Flow": [1.0, 2.0]})])
    catalog.ingest([onchain({"Flow": [1.0, 9.0]}, vintage="2024-04", known_at=known_at)])
    connection = connect(catalog.path)
    assert connection.sql("SELECT value FROM onchain ORDER BY ts_init").fetchall() == [
        (1.0,),
        (2.0,),
    ]
    rows = connection.sql(
        "SELECT vintage, epoch_ns(known_at), value FROM onchain_vintages ORDER BY vintage, value"
    ).fetchall()
    assert rows == [
        ("2024-04", known_at, 1.0),
        ("2024-04", known_at, 9.0),
        ("first", None, 1.0),
        ("first", None, 2.0),
    ]


def test_files_that_do_not_count_are_not_seen(filled: Catalog) -> None:
    file = filled.path / filled.manifest.series[1].layers[0].files[0].path
    file.with_name("stranger.parquet").write_bytes(file.read_bytes())
    assert connect(filled.path).sql("SELECT count(*) FROM bars").fetchall() == [(8,)]


def test_a_quote_in_the_folders_name_is_harmless(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "o'hara; drop", create=True)
    catalog.ingest([bars()])
    assert connect(catalog.path).sql("SELECT count(*) FROM bars").fetchall() == [(8,)]


def test_missing_files_and_catalogs_are_errors(filled: Catalog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="catalog must be a folder"):
        connect(tmp_path / "none")
    (filled.path / filled.manifest.series[1].layers[0].files[0].path).unlink()
    with pytest.raises(IntegrityError, match=r"must exist, was missing"):
        connect(filled.path)
