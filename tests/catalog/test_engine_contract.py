"""The engine opens the catalog's folder, and agrees with what the catalog itself reads."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nautilus_trader.model import CustomData, DataType, NautilusDataType
from nautilus_trader.persistence import ParquetDataCatalog

from catalog.errors import DataError, IntegrityError
from catalog.records import Batch
from catalog.store import Catalog
from catalog.types import BarFlow, IndexLevel, NewsSentiment, OnchainMetrics, register_types
from tests.catalog.builders import (
    BTC,
    BTC_15M,
    START,
    bar_columns,
    bars,
    every_kind,
    funding,
    onchain,
)


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    register_types()
    report = catalog.ingest(every_kind())
    assert not report.refused
    return catalog


def engine(catalog: Catalog) -> ParquetDataCatalog:
    return ParquetDataCatalog(str(catalog.path))


def test_the_engine_reads_the_same_bars(filled: Catalog) -> None:
    found = engine(filled).query_bars([BTC_15M])
    columns = filled.bars(BTC, "15m")
    assert len(found) == len(columns) == 8
    for name in ("open", "high", "low", "close", "volume"):
        assert [getattr(bar, name).raw / 10**16 for bar in found] == getattr(columns, name).tolist()
    assert [bar.ts_init for bar in found] == columns.ts_init.tolist()
    assert [bar.ts_event for bar in found] == columns.ts_init.tolist()
    assert {str(bar.bar_type) for bar in found} == {BTC_15M}
    assert {bar.close.precision for bar in found} == {1}
    assert {bar.volume.precision for bar in found} == {3}
    assert filled.nautilus_bars(BTC, "15m") == found


def test_the_engines_stream_of_columns_agrees(filled: Catalog) -> None:
    class Stream:
        def __init__(self, capsule: object) -> None:
            self.capsule = capsule

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return self.capsule

    capsule = engine(filled).query_data_arrow_stream(NautilusDataType.Bar, [BTC_15M])
    table = pa.RecordBatchReader.from_stream(Stream(capsule)).read_all()
    columns = filled.bars(BTC, "15m")
    for name in ("open", "high", "low", "close", "volume"):
        # The stream's doubles are rounded twice and may be one bit off the nearest.
        np.testing.assert_allclose(table[name], getattr(columns, name), rtol=3e-16)


@pytest.mark.parametrize(("start", "end"), [(None, None), (2, 5), (2, None), (None, 5)])
def test_spans_mean_the_same_to_both(filled: Catalog, start: int | None, end: int | None) -> None:
    stamps = filled.bars(BTC, "15m").ts_init
    first = None if start is None else int(stamps[start])
    last = None if end is None else int(stamps[end])
    found = filled.nautilus_bars(BTC, "15m", first, last)
    assert [bar.ts_init for bar in found] == filled.bars(BTC, "15m", first, last).ts_init.tolist()


def test_the_engine_reads_settlements_that_it_will_book(filled: Catalog) -> None:
    found = filled.nautilus_funding(BTC)
    columns = filled.funding(BTC)
    assert [float(record.rate) for record in found] == columns.value.tolist()
    assert all(isinstance(record.rate, Decimal) for record in found)
    assert [record.next_funding_ns for record in found] == columns.ts_event.tolist()
    assert [record.ts_init for record in found] == columns.ts_init.tolist()
    assert {str(record.instrument_id) for record in found} == {BTC}


@pytest.mark.parametrize("custom", [BarFlow, OnchainMetrics, IndexLevel, NewsSentiment])
def test_the_engine_reads_our_custom_data(filled: Catalog, custom: type) -> None:
    (batch,) = [b for b in every_kind() if _type_of(b) is custom]
    found = engine(filled).query_custom_data(NautilusDataType.Custom(custom.__name__))
    records = [item.data for item in found]
    assert all(isinstance(record, custom) for record in records)
    assert [record.ts_init for record in records] == sorted(batch.columns["ts_init"].tolist())
    expected = filled.records(batch.kind, batch.series)
    for name in expected:
        held = [getattr(record, name) for record in records]
        np.testing.assert_array_equal(np.array(held), np.array(expected[name].tolist()), name)
    one = engine(filled).query_custom_data(
        NautilusDataType.Custom(custom.__name__), identifiers=[batch.series]
    )
    assert len(one) == len(found)


def _type_of(batch: Batch) -> type | None:
    kinds = {
        "bar_flow": BarFlow,
        "onchain": OnchainMetrics,
        "index": IndexLevel,
        "news": NewsSentiment,
    }
    return kinds.get(batch.kind)


def test_our_custom_files_are_what_the_engine_itself_writes(
    filled: Catalog, tmp_path: Path
) -> None:
    (batch,) = [b for b in every_kind() if b.kind == "onchain"]
    records = filled.records("onchain", batch.series)
    own = [
        CustomData(
            DataType("OnchainMetrics", None, batch.series),
            OnchainMetrics(
                int(records["ts_event"][row]),
                int(records["ts_init"][row]),
                asset="btc",
                metric=records["metric"][row],
                value=float(records["value"][row]),
                unit=records["unit"][row],
            ),
        )
        for row in range(len(records["ts_init"]))
    ]
    (tmp_path / "engine").mkdir()
    theirs = ParquetDataCatalog(str(tmp_path / "engine"))
    path = theirs.write_custom_data(own)
    import pyarrow.parquet as pq

    written = pq.read_table(tmp_path / "engine" / path)
    stored = filled.manifest.find("onchain", batch.series)
    assert stored is not None
    (file,) = stored.layers[0].files
    ours = pq.read_table(filled.path / file.path)
    assert file.path.startswith("data/custom/OnchainMetrics/coinmetrics.btc/")
    assert ours.schema.equals(written.schema, check_metadata=True)
    for name in written.column_names:
        if name != "data_type":
            assert ours[name].to_pylist() == written[name].to_pylist()
    theirs_type, ours_type = (json.loads(t["data_type"][0].as_py()) for t in (written, ours))
    assert theirs_type == ours_type


def test_the_engine_finds_the_instruments(filled: Catalog) -> None:
    (found,) = engine(filled).instruments()
    assert found == filled.instrument(BTC)


def test_two_vintages_are_never_mixed_by_the_engine(catalog: Catalog) -> None:
    register_types()
    catalog.ingest([onchain({"Flow": [1.0, 2.0]})])
    later = onchain({"Flow": [1.5, 2.5, 3.5]}, vintage="2024-04", known_at=START + 10**16)
    catalog.ingest([later])
    kind = NautilusDataType.Custom("OnchainMetrics")
    assert [item.data.value for item in engine(catalog).query_custom_data(kind)] == [1.0, 2.0]
    other = ParquetDataCatalog(str(catalog.path / "vintages" / "2024-04"))
    assert [item.data.value for item in other.query_custom_data(kind)] == [1.5, 2.5, 3.5]


def test_a_series_of_many_files_is_one_to_the_engine(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.merging.SMALL_FILE_ROWS", 0)
    for first in (16, 0, 8):
        catalog.ingest([bars(first, 8, source=f"{first}.csv")])
    assert len(catalog.manifest.series[0].layers[0].files) == 3
    stamps = [bar.ts_init for bar in engine(catalog).query_bars([BTC_15M])]
    assert stamps == bar_columns(0, 24)["ts_init"].tolist()


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
@settings(max_examples=15)
def test_any_price_agrees(tmp_path_factory: pytest.TempPathFactory, prices: list[int]) -> None:
    catalog = Catalog.open(tmp_path_factory.mktemp("catalog"), create=True)
    values = np.array(prices) / 10.0
    changes = dict.fromkeys(("open", "high", "low", "close"), values)
    assert not catalog.ingest([bars(0, len(prices), **changes)]).refused
    columns = catalog.bars(BTC, "15m")
    assert [
        bar.close.raw / 10**16 for bar in catalog.nautilus_bars(BTC, "15m")
    ] == columns.close.tolist()
    assert all(
        math.isclose(x, y, rel_tol=1e-15) for x, y in zip(columns.close, values, strict=True)
    )


def test_a_strangers_file_is_not_replayed(filled: Catalog) -> None:
    (file,) = filled.manifest.series[1].layers[0].files
    stranger = (filled.path / file.path).with_name(
        "2030-01-01T00-00-00-000000000Z_2030-01-02T00-00-00-000000000Z.parquet"
    )
    stranger.write_bytes((filled.path / file.path).read_bytes())
    assert len(filled.bars(BTC, "15m")) == 8
    with pytest.raises(IntegrityError, match=r"must hold the catalog's files alone, also held"):
        filled.nautilus_bars(BTC, "15m")


def test_damage_is_found_before_the_engine_reads(filled: Catalog) -> None:
    record = filled.manifest.find("funding", BTC)
    assert record is not None
    path = filled.path / record.layers[0].files[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="was changed; restore it"):
        filled.nautilus_funding(BTC)


def test_funding_alone_defines_its_instrument(catalog: Catalog) -> None:
    catalog.ingest([funding()])
    assert catalog.instruments() == [BTC]


def test_bars_that_only_a_later_vintage_has_are_not_left_out_silently(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 4)])
    catalog.ingest([bars(2, 6, vintage="redo", known_at=START)])
    assert len(catalog.bars(BTC, "15m")) == 8
    assert len(catalog.nautilus_bars(BTC, "15m", None, START + 4 * 900 * 10**9)) == 4
    with pytest.raises(DataError, match="was 4 of 8 records there; the others came with a later"):
        catalog.nautilus_bars(BTC, "15m")
