from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.instruments import bar_type
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_HOUR, NS_PER_MINUTE, parse_time
from research.panel import Panel, load_panel

INTERVAL = 15 * NS_PER_MINUTE
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
START, END = parse_time("2023-01-01"), parse_time("2023-01-11")


def make_bars(name: str = BTC, start: int = START, end: int = END) -> BarArrays:
    ts_init = np.arange(start + INTERVAL, end + 1, INTERVAL, dtype=np.int64)
    price = np.full(len(ts_init), 100.0)
    return BarArrays(name, INTERVAL, ts_init, price, price, price, price, price)


def make_funding(name: str = BTC, start: int = START, end: int = END) -> SeriesArrays:
    ts = np.arange(start, end + 1, 8 * NS_PER_HOUR, dtype=np.int64)
    return SeriesArrays(name, "fraction", ts, ts, np.full(len(ts), 1e-4))


@dataclass(frozen=True)
class Info:
    series: str
    start: int
    end: int


class MemoryCatalog:
    """The part of a catalog that `load_panel` uses, over arrays in memory."""

    def __init__(self, bars: Sequence[BarArrays], funding: Sequence[SeriesArrays] = ()) -> None:
        self._bars = {one.instrument_id: one for one in bars}
        self._funding = {one.name: one for one in funding}

    def series(self, kind: Any = None) -> list[Info]:
        assert kind == "bars"
        return [
            Info(bar_type(name, "15m"), int(one.ts_init[0]), int(one.ts_init[-1]))
            for name, one in self._bars.items()
        ]

    def bars(
        self, instrument_id: str, interval: str, start: int | None = None, end: int | None = None
    ) -> BarArrays:
        assert interval == "15m"
        return self._bars[instrument_id].between(start, end)

    def funding(
        self, instrument_id: str, start: int | None = None, end: int | None = None
    ) -> SeriesArrays:
        if instrument_id not in self._funding:
            raise DataError(f"no funding of {instrument_id}")
        return self._funding[instrument_id].between(start, end)

    def data_hash(self, requests: Sequence[Any]) -> str:
        return f"hash of {requests}"

    def is_synthetic(self, instrument_ids: Sequence[str]) -> bool:
        return False


@pytest.fixture
def catalog() -> MemoryCatalog:
    return MemoryCatalog([make_bars(BTC), make_bars(ETH)], [make_funding(BTC), make_funding(ETH)])


def test_loads_what_was_asked_for_and_nothing_else(catalog: MemoryCatalog) -> None:
    start, end = parse_time("2023-01-03"), parse_time("2023-01-05")
    panel = load_panel(catalog, [ETH, BTC], "15m", start, end, funding=True)
    assert panel.instruments() == (ETH, BTC)
    for bars in panel.bars:
        assert bars.ts_init[0] == start + INTERVAL
        assert bars.ts_init[-1] == end
    # The rate settled before the first bar is there, so that the first bar has one.
    assert panel.funding[BTC].ts_init[0] <= start
    assert panel.funding[BTC].ts_init[-1] == end


def test_warm_up_is_loaded_in_front_of_the_span(catalog: MemoryCatalog) -> None:
    start, end = parse_time("2023-01-03"), parse_time("2023-01-05")
    panel = load_panel(catalog, [BTC], "15m", start, end, funding=False, warmup_bars=96)
    assert panel.bars[0].ts_init[0] == start - 95 * INTERVAL
    assert panel.funding == {}


@pytest.mark.parametrize("funding", [False, True])
def test_the_whole_of_the_data_may_be_asked_for(catalog: MemoryCatalog, funding: bool) -> None:
    panel = load_panel(catalog, [BTC], "15m", START, END, funding=funding)
    assert len(panel.bars[0]) == 960


def test_a_symbol_that_is_not_stored_names_the_nearest(catalog: MemoryCatalog) -> None:
    with pytest.raises(DataError, match=r"was BTCUSD-PERP.BINANCE; did you mean BTCUSDT-PERP"):
        load_panel(catalog, ["BTCUSD-PERP.BINANCE"], "15m", START, END, funding=False)
    with pytest.raises(DataError, match=rf"must be in the catalog \({BTC}, {ETH}\), was zzz"):
        load_panel(catalog, ["zzz"], "15m", START, END, funding=False)


def test_an_interval_that_is_not_stored_names_those_that_are(catalog: MemoryCatalog) -> None:
    with pytest.raises(DataError, match=r"in the catalog \(15m\), was 1h"):
        load_panel(catalog, [BTC], "1h", START, END, funding=False)
    with pytest.raises(ConfigError, match="interval must be one of"):
        load_panel(catalog, [BTC], "7m", START, END, funding=False)


@pytest.mark.parametrize("end", [START, START - INTERVAL, START + INTERVAL - 1])
def test_an_empty_span_is_refused(catalog: MemoryCatalog, end: int) -> None:
    with pytest.raises(DataError, match="span must hold at least one bar of 15m"):
        load_panel(catalog, [BTC], "15m", START, end, funding=False)


def test_a_start_before_the_data_is_refused_and_never_moved(catalog: MemoryCatalog) -> None:
    with pytest.raises(
        DataError, match=r"start must be no earlier than the data .*start at 2023-01-01 00:00:00"
    ):
        load_panel(catalog, [BTC], "15m", START - INTERVAL, END, funding=False)


def test_too_little_history_for_the_warm_up_says_where_one_may_start(
    catalog: MemoryCatalog,
) -> None:
    start = START + 95 * INTERVAL
    with pytest.raises(DataError, match=r"plus 96 bars of warm-up, .*start at 2023-01-02 00:00:00"):
        load_panel(catalog, [BTC], "15m", start, END, funding=False, warmup_bars=96)
    load_panel(catalog, [BTC], "15m", start + INTERVAL, END, funding=False, warmup_bars=96)


def test_an_end_after_the_data_is_refused(catalog: MemoryCatalog) -> None:
    with pytest.raises(DataError, match=r"end must be no later .*\(2023-01-11 00:00:00\)"):
        load_panel(catalog, [BTC], "15m", START, END + INTERVAL, funding=False)


def test_a_gap_over_the_whole_span_is_refused() -> None:
    bars = make_bars()
    kept = (bars.ts_init <= START + 10 * INTERVAL) | (bars.ts_init > END - 10 * INTERVAL)
    columns = {name: getattr(bars, name)[kept] for name in ("ts_init", "open", "high")}
    columns |= {name: getattr(bars, name)[kept] for name in ("low", "close", "volume")}
    catalog = MemoryCatalog([replace(bars, **columns)])
    with pytest.raises(DataError, match="has none: there is a gap"):
        load_panel(catalog, [BTC], "15m", START + 20 * INTERVAL, END - 20 * INTERVAL, funding=False)


def test_missing_funding_is_refused_and_never_taken_as_zero() -> None:
    catalog = MemoryCatalog([make_bars(BTC)])
    with pytest.raises(
        DataError, match=r"was missing.*features\.funding: false and execution\.funding: none"
    ):
        load_panel(catalog, [BTC], "15m", START, END, funding=True)
    assert load_panel(catalog, [BTC], "15m", START, END, funding=False).funding == {}


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        (START + 10 * NS_PER_HOUR, END, "from 2023-01-01 00:00:00 to 2023-01-01 10:00:00"),
        (START, END - 9 * NS_PER_HOUR, "to 2023-01-11 00:00:00"),
    ],
)
def test_funding_that_misses_an_end_of_the_span_is_refused(
    first: int, last: int, text: str
) -> None:
    catalog = MemoryCatalog([make_bars()], [make_funding(start=first, end=last)])
    with pytest.raises(DataError, match=text):
        load_panel(catalog, [BTC], "15m", START, END, funding=True)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ([7], "from 2023-01-03 00:00:00 to 2023-01-03 16:00:00;"),
        ([7, 8], "from 2023-01-03 00:00:00 to 2023-01-04 00:00:00;"),
    ],
)
def test_holes_in_the_funding_are_refused_and_named(missing: list[int], text: str) -> None:
    funding = make_funding()
    kept = np.delete(np.arange(len(funding)), missing)
    series = replace(
        funding,
        ts_event=funding.ts_event[kept],
        ts_init=funding.ts_init[kept],
        value=funding.value[kept],
    )
    catalog = MemoryCatalog([make_bars()], [series])
    with pytest.raises(DataError, match="settlement every 9 hours at most, had none " + text):
        load_panel(catalog, [BTC], "15m", START, END, funding=True)


def test_a_hole_outside_the_span_does_no_harm() -> None:
    funding = make_funding()
    kept = np.delete(np.arange(len(funding)), 7)
    series = replace(
        funding,
        ts_event=funding.ts_event[kept],
        ts_init=funding.ts_init[kept],
        value=funding.value[kept],
    )
    catalog = MemoryCatalog([make_bars()], [series])
    start = parse_time("2023-01-03 16:00")
    assert len(load_panel(catalog, [BTC], "15m", start, END, funding=True).funding[BTC])
    with pytest.raises(DataError, match="had none from 2023-01-03 00:00:00 to 2023-01-03 16:00:00"):
        load_panel(catalog, [BTC], "15m", start, END, funding=True, warmup_bars=65)


def test_settlements_may_be_a_little_late() -> None:
    funding = make_funding()
    late = funding.ts_init + (np.arange(len(funding)) % 2) * (NS_PER_HOUR // 2)
    series = replace(funding, ts_event=late, ts_init=late).between(None, END)
    catalog = MemoryCatalog([make_bars()], [series])
    assert len(load_panel(catalog, [BTC], "15m", START, END, funding=True).funding[BTC])


def test_truncated_panel_knows_nothing_later() -> None:
    panel = Panel(INTERVAL, (make_bars(),), {BTC: make_funding()}, "hash", False)
    cut = parse_time("2023-01-04 07:59:59")
    shorter = panel.truncated(cut)
    assert shorter.bars[0].ts_init[-1] == parse_time("2023-01-04 07:45")
    assert shorter.funding[BTC].ts_init[-1] == parse_time("2023-01-04 00:00")
    assert shorter.data_hash != panel.data_hash


def panel_of(*bars: BarArrays, funding: dict[str, SeriesArrays] | None = None) -> Panel:
    return Panel(INTERVAL, bars, funding or {}, "hash", False)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    bars = make_bars()
    with pytest.raises(DataError, match="at least one instrument"):
        panel_of()
    with pytest.raises(DataError, match="must be distinct"):
        panel_of(bars, bars)
    with pytest.raises(DataError, match="must be 15m long like the panel, were 1h"):
        panel_of(replace(bars, interval_ns=NS_PER_HOUR))
    with pytest.raises(DataError, match="sorted by ts_init without duplicates"):
        panel_of(replace(bars, ts_init=bars.ts_init[::-1]))
    with pytest.raises(DataError, match=r"multiple of 15m \(the close\), was .*00:14:59.999"):
        panel_of(replace(bars, ts_init=bars.ts_init - 1_000_000))
    with pytest.raises(DataError, match=f"instrument of the panel, was for {ETH}"):
        panel_of(bars, funding={ETH: make_funding(ETH)})
    unsorted = make_funding()
    with pytest.raises(DataError, match=r"funding of .* must be sorted"):
        panel_of(bars, funding={BTC: replace(unsorted, ts_init=unsorted.ts_init[::-1])})


# ---------------------------------------------------------------------------------------------
# A real catalog on disk.


@pytest.fixture
def stored(tmp_path: Path) -> Catalog:
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    batches = []
    for name in (BTC, ETH):
        bars, funding = make_bars(name), make_funding(name)
        columns = {key: getattr(bars, key) for key in ("ts_init", *Ohlcv._fields)}
        columns["ts_event"] = bars.ts_init
        batches.append(Batch("bars", bar_type(name, "15m"), columns, f"{name}.csv", synthetic=True))
        rates = {"ts_init": funding.ts_init, "ts_event": funding.ts_event, "rate": funding.value}
        batches.append(Batch("funding", name, rates, f"{name}-funding.csv", synthetic=True))
    catalog.ingest(batches)
    return catalog


def test_what_a_catalog_stores_is_what_a_panel_holds(stored: Catalog) -> None:
    start, end = parse_time("2023-01-03"), parse_time("2023-01-05")
    panel = load_panel(stored, [BTC, ETH], "15m", start, end, funding=True)
    again = load_panel(stored, [BTC, ETH], "15m", start, end, funding=True)
    other = load_panel(stored, [BTC, ETH], "15m", start, end - INTERVAL, funding=True)
    assert panel.synthetic
    assert panel.data_hash == again.data_hash != other.data_hash
    for bars in panel.bars:
        expected = make_bars(bars.instrument_id).between(start, end)
        for key in ("ts_init", *Ohlcv._fields):
            np.testing.assert_array_equal(getattr(bars, key), getattr(expected, key))
    with pytest.raises(DataError, match=r"did you mean BTCUSDT-PERP"):
        load_panel(stored, ["BTCUSD-PERP.BINANCE"], "15m", start, end, funding=False)


def test_damaged_files_are_refused(stored: Catalog) -> None:
    for path in stored.path.rglob("*.parquet"):
        if "BTCUSDT" in str(path):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
    with pytest.raises(IntegrityError, match="BTCUSDT"):
        load_panel(stored, [BTC], "15m", START, END, funding=False)
