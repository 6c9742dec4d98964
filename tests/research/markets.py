"""Random markets for tests of features, labels and audits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.timestamps import NS_PER_HOUR, NS_PER_MINUTE
from research.features import FeatureConfig, FeatureStream
from research.panel import Panel

INSTRUMENTS = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE", "SOLUSDT-PERP.BINANCE")
BTC, ETH, SOL = INSTRUMENTS
EVERYTHING = FeatureConfig(lead=BTC, peers=True, ratios=((BTC, ETH), (ETH, SOL)))
FIRST_SLOT = 1_900_123  # of quarter hours: some time in 2024, off every anchor
COLUMNS = ("ts_init", "open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Market:
    """What to make: `missing` is the share of bars left out, `gap` a hole in slots for one."""

    seed: int = 0
    slots: int = 1_300
    interval_ns: int = 15 * NS_PER_MINUTE
    missing: float = 0.0
    gap: tuple[int, int] | None = None
    still: bool = False

    def panel(self) -> Panel:
        random = np.random.default_rng(self.seed)
        # The same number of intervals would lie in the year 3000 for daily bars.
        first = FIRST_SLOT * 15 * NS_PER_MINUTE // self.interval_ns
        slots = first + np.arange(self.slots)
        common = random.standard_t(3, self.slots)
        bars = []
        for number, name in enumerate(INSTRUMENTS):
            one = self._bars(random, name, slots * self.interval_ns, common)
            kept = random.random(self.slots) >= self.missing
            if self.gap is not None and number == self.seed % 3:
                kept[self.gap[0] : self.gap[0] + self.gap[1]] = False
            bars.append(take(one, kept))
        start, end = int(slots[0]) * self.interval_ns, int(slots[-1]) * self.interval_ns
        funding = {name: _funding(random, name, start, end) for name in INSTRUMENTS}
        return Panel(self.interval_ns, tuple(bars), funding, f"market {self.seed}", True)

    def _bars(
        self, random: np.random.Generator, name: str, ts_init: NDArray[Any], common: NDArray[Any]
    ) -> BarArrays:
        size = len(ts_init)
        changes = 0.0 if self.still else 1e-3 * (common + random.standard_t(3, size))
        close = np.round(100.0 * np.exp(np.cumsum(changes + np.zeros(size))), 2)
        first = np.concatenate([[100.0], close[:-1]])
        noise = 0.0 if self.still else 1e-3
        high = np.maximum(first, close) * np.exp(noise * random.exponential(1.0, size))
        low = np.minimum(first, close) * np.exp(-noise * random.exponential(1.0, size))
        volume = np.round(random.lognormal(3.0, 1.0, size), 3)
        volume[random.random(size) < 0.02] = 0.0
        return BarArrays(name, self.interval_ns, ts_init, first, high, low, close, volume)


def _funding(random: np.random.Generator, name: str, start: int, end: int) -> SeriesArrays:
    """Make settlements every 8 hours, of which every fifth becomes known up to 3 hours late."""
    eight = 8 * NS_PER_HOUR
    ts_event = np.arange(start // eight * eight, end + 1, eight, dtype=np.int64)
    late = np.where(random.random(len(ts_event)) < 0.2, random.integers(1, 180, len(ts_event)), 0)
    rate = random.normal(1e-4, 1e-4, len(ts_event))
    return SeriesArrays(name, "fraction", ts_event, ts_event + late * NS_PER_MINUTE, rate)


def take(bars: BarArrays, rows: NDArray[Any] | slice) -> BarArrays:
    """Return some of the bars."""
    columns: dict[str, Any] = {name: getattr(bars, name)[rows] for name in COLUMNS}
    return replace(bars, **columns)


def since(panel: Panel, ts: int) -> Panel:
    """Return what came after `ts`: what somebody knows who begins to listen then."""
    return replace(
        panel,
        bars=tuple(bars.between(ts, None) for bars in panel.bars),
        funding={name: series.between(ts, None) for name, series in panel.funding.items()},
    )


def bars_by_time(panel: Panel) -> dict[int, dict[str, Ohlcv]]:
    """Return the bars of every timestamp, in the order of time."""
    result: dict[int, dict[str, Ohlcv]] = {}
    for bars in panel.bars:
        columns = [getattr(bars, name).tolist() for name in COLUMNS]
        for ts_init, *numbers in zip(*columns, strict=True):
            result.setdefault(ts_init, {})[bars.instrument_id] = Ohlcv(*numbers)
    return dict(sorted(result.items()))


def stream_rows(
    panel: Panel, config: FeatureConfig, *, compiled: bool = True
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Feed a panel to a stream as it would arrive; return its rows by instrument and time."""
    stream = FeatureStream(panel.instruments(), panel.interval_ns, config, compiled=compiled)
    settlements = sorted(
        (int(ts), name, float(rate))
        for name, series in panel.funding.items()
        for ts, rate in zip(series.ts_init, series.value, strict=True)
    )
    rows = {}
    for ts_init, bars in bars_by_time(panel).items():
        while settlements and settlements[0][0] <= ts_init:
            known_at, name, rate = settlements.pop(0)
            stream.update_funding(name, rate, known_at)
        for name, row in stream.update(ts_init, bars).items():
            rows[name, ts_init] = row
    return rows
