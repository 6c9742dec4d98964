"""Random markets for tests of features, labels and audits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.store import FlowArrays
from catalog.timestamps import NS_PER_HOUR, NS_PER_MINUTE
from research.events import EventArrays, flow_between
from research.features import FeatureConfig, FeatureStream, panel_needs
from research.groups import slow
from research.inputs import FLOW_FIELDS
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
    """Return what came after `ts`, as somebody knows it who begins to listen then.

    Of slow series, if there are any, that is what came in the time before which they need.
    """
    back = slow.FUNDING_HISTORY_NS if panel.series else 0
    return replace(
        panel,
        bars=tuple(bars.between(ts, None) for bars in panel.bars),
        funding={name: one.between(ts - back, None) for name, one in panel.funding.items()},
        flow={name: flow_between(flow, ts, None) for name, flow in panel.flow.items()},
        minutes={name: bars.between(ts, None) for name, bars in panel.minutes.items()},
        series={
            name: one.between(ts - slow.HISTORY_NS, None) for name, one in panel.series.items()
        },
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
    arriving = told(panel, config)
    rows, done = {}, 0
    for ts_init, bars in bars_by_time(panel).items():
        while done < len(arriving) and arriving[done][0] <= ts_init:
            tell(stream, *arriving[done])
            done += 1
        for name, row in stream.update(ts_init, bars).items():
            rows[name, ts_init] = row
    return rows


type Told = tuple[int, str, str, tuple[float, ...]]
"""When something became known, what sort of thing it is, whose it is, and its numbers."""


def told(panel: Panel, config: FeatureConfig) -> list[Told]:
    """Return what a stream is told beside bars, in the order in which it became known."""
    arriving: list[Told] = []
    for name, series in panel.funding.items():
        arriving += [
            (ts, "funding", name, (rate,))
            for ts, rate in zip(series.ts_init.tolist(), series.value.tolist(), strict=True)
        ]
    if config.flow:
        for name, flow in panel.flow.items():
            columns = [getattr(flow, field).tolist() for field in ("ts_init", *FLOW_FIELDS)]
            arriving += [(ts, "flow", name, tuple(row)) for ts, *row in zip(*columns, strict=True)]
    if config.path:
        for name, bars in panel.minutes.items():
            columns = [getattr(bars, field).tolist() for field in COLUMNS]
            arriving += [
                (ts, "minute", name, tuple(row)) for ts, *row in zip(*columns, strict=True)
            ]
    wanted = panel_needs(config).series
    for name, events in panel.series.items():
        if name in wanted:
            extra = np.full(len(events), np.nan) if events.extra is None else events.extra
            columns = [events.ts_init.tolist(), events.value.tolist(), extra.tolist()]
            arriving += [
                (ts, "series", name, tuple(row)) for ts, *row in zip(*columns, strict=True)
            ]
    return sorted(arriving, key=lambda one: one[0])


def tell(stream: FeatureStream, ts: int, kind: str, name: str, values: tuple[float, ...]) -> None:
    """Tell a stream one of `told`."""
    call, arguments = calls(stream, ts, kind, name, values)
    call(*arguments)


def calls(
    stream: FeatureStream, ts: int, kind: str, name: str, values: tuple[float, ...]
) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Return which function of a stream to call with what, to tell it one of `told`."""
    if kind == "funding":
        return stream.update_funding, (name, values[0], ts)
    if kind == "flow":
        return stream.update_flow, (name, values, ts)
    if kind == "minute":
        return stream.update_minute, (name, ts, Ohlcv(*values))
    return stream.update_series, (name, values[0], ts, values[1])


# ---------------------------------------------------------------------------------------------
# Everything that features can look at beside bars.

ONCHAIN, DVOL, FEAR_GREED = "coinmetrics.btc", ("dvol.btc", "dvol.eth"), "fear_greed"
NEWS = ("wire", "paper")
SLOW = FeatureConfig(
    onchain=ONCHAIN, dvol=DVOL, fear_greed=FEAR_GREED, news=NEWS, funding_terms=True
)
FULL = EVERYTHING.model_copy(
    update={
        **{name: getattr(SLOW, name) for name in ("onchain", "dvol", "fear_greed", "news")},
        **dict.fromkeys(("smc", "cross", "regime", "flow", "path", "funding_terms"), True),
        "timeframes": ("1h", "4h"),
    }
)
"""Every feature there is, for base bars of 15 minutes."""


def furnished(panel: Panel, seed: int = 0, *, late: bool = True) -> Panel:
    """Return a panel with order flow, minutes, slow series and the funding before it.

    `late`: records come late and repeat themselves, series begin late and end early.
    """
    random = np.random.default_rng([seed, 77])
    start = min(int(bars.ts_init[0]) for bars in panel.bars if len(bars))
    end = max(int(bars.ts_init[-1]) for bars in panel.bars if len(bars))
    span = (start - slow.HISTORY_NS, end)
    funding = {
        name: _funding(random, name, start - slow.FUNDING_HISTORY_NS, end) for name in panel.funding
    }
    return replace(
        panel,
        funding=funding,
        flow={bars.instrument_id: _flow(random, bars, late=late) for bars in panel.bars},
        minutes={bars.instrument_id: _minutes(random, bars, late=late) for bars in panel.bars},
        series={one.name: one for one in _series(random, span, late=late)},
    )


def _flow(random: np.random.Generator, bars: BarArrays, *, late: bool) -> FlowArrays:
    """Make order flow, of which every fiftieth record is missing if `late`."""
    kept = random.random(len(bars)) >= (0.02 if late else 0.0)
    quote = bars.volume * bars.close
    share = random.beta(5.0, 5.0, len(bars))
    return FlowArrays(
        bars.instrument_id,
        bars.interval_ns,
        bars.ts_init[kept],
        quote[kept],
        random.poisson(3.0, len(bars))[kept],
        (bars.volume * share)[kept],
        (quote * share)[kept],
    )


def _minutes(random: np.random.Generator, bars: BarArrays, *, late: bool) -> BarArrays:
    """Make 1-minute bars inside the bars, of which one in a thousand is missing if `late`."""
    count = bars.interval_ns // NS_PER_MINUTE
    opens = bars.ts_init[:, np.newaxis] - bars.interval_ns
    ts_init = (opens + NS_PER_MINUTE * np.arange(1, count + 1)).ravel()
    size = len(ts_init)
    close = np.exp(np.cumsum(3e-4 * random.standard_normal(size))) * 100.0
    first = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(first, close) * np.exp(1e-4 * random.exponential(1.0, size))
    low = np.minimum(first, close) * np.exp(-1e-4 * random.exponential(1.0, size))
    volume = random.lognormal(0.0, 1.0, size)
    one = BarArrays(bars.instrument_id, NS_PER_MINUTE, ts_init, first, high, low, close, volume)
    return take(one, random.random(size) >= (1e-3 if late else 0.0))


def _series(
    random: np.random.Generator, span: tuple[int, int], *, late: bool
) -> Iterator[EventArrays]:
    """Make every slow series: daily ones at noon or so, hourly ones, news at any minute."""
    day, hour = 24 * NS_PER_HOUR, NS_PER_HOUR
    for metric in slow.METRICS:
        ts = np.arange(span[0], span[1], day) + random.integers(0, 2 * hour)
        value = np.exp(random.normal(0.0, 0.2, len(ts)))
        yield _disturbed(random, f"onchain.{ONCHAIN}.{metric}", ts, value, late=late)
    for series in DVOL:
        ts = np.arange(span[0] // hour * hour, span[1], hour)
        value = 60.0 * np.exp(0.1 * random.standard_normal(len(ts)))
        yield _disturbed(random, f"index.{series}", ts, value, late=late)
    ts = np.arange(span[0] // day * day, span[1], day)
    fear = random.integers(5, 95, len(ts)).astype(np.float64)
    yield _disturbed(random, f"index.{FEAR_GREED}", ts, fear, late=late)
    for source in NEWS:
        count = (span[1] - span[0]) // (2 * hour)
        ts = np.sort(random.integers(span[0], span[1], count)) // NS_PER_MINUTE * NS_PER_MINUTE
        score = np.where(random.random(count) < 0.3, np.nan, random.uniform(-1.0, 1.0, count))
        novelty = np.where(random.random(count) < 0.1, 0.0, random.random(count))
        yield EventArrays(f"news.{source}", ts, score, novelty)


def _disturbed(
    random: np.random.Generator,
    name: str,
    ts: NDArray[np.int64],
    value: NDArray[np.float64],
    *,
    late: bool,
) -> EventArrays:
    """Make some records late, repeat some and leave some out; begin late or end early."""
    if late:
        delays = np.where(random.random(len(ts)) < 0.1, random.integers(1, 10, len(ts)), 0)
        ts = ts + delays * NS_PER_HOUR
        times = random.choice([0, 1, 2], len(ts), p=[0.05, 0.9, 0.05])
        if random.random() < 0.3:
            times[: random.integers(0, len(ts))] = 0
        if random.random() < 0.3:
            times[random.integers(0, len(ts)) :] = 0
        ts, value = np.repeat(ts, times), np.repeat(value, times)
        order = np.argsort(ts, kind="stable")
        ts, value = ts[order], value[order]
    return EventArrays(name, ts.astype(np.int64), value)
