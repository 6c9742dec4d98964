"""A made-up market whose edge is known, to show the whole path and to check the checker.

Everything follows from the seed. The process is described in `adapters.synthetic_market`; this
module turns it into the batches that the catalog takes: bars, funding, the oracle's probability,
daily on-chain metrics and headlines. Every batch is marked synthetic.

On-chain metrics, headlines and funding follow past prices and noise of their own. They foretell
nothing, at any edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from adapters.synthetic_market import Asset, Clock, Market, simulate
from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import ConfigError
from catalog.instruments import bar_type, instrument
from catalog.records import AnyArray, Batch, Kind
from catalog.timestamps import (
    NS_PER_DAY,
    NS_PER_HOUR,
    NS_PER_MINUTE,
    NS_PER_SECOND,
    interval_ns,
    parse_time,
)

SOURCE = "synthetic market"
"""Provenance of every batch."""
DEFAULT_DAYS = 182
MAX_DAYS = 3_650
MAX_BARS = 3_000_000
"""All instruments' bars together: a market is made in memory, about 0.5 kB for each of its bars."""
FUNDING_INTERVAL_NS = 8 * NS_PER_HOUR
ONCHAIN_DELAY_NS = 6 * NS_PER_HOUR
"""A day's metrics are known six hours after the day's end."""
SCORING_DELAY_NS = 5 * NS_PER_MINUTE
"""A headline's score is known five minutes after its publication."""
NEWS_SERIES = "synthetic_news"

# First price (USDT), annual volatility (fraction), daily volume (base units).
_KNOWN_ASSETS = {
    "BTC": (42_000.0, 0.50, 300_000.0),
    "ETH": (2_300.0, 0.62, 4_000_000.0),
    "SOL": (100.0, 0.90, 25_000_000.0),
}
_OTHER_ASSET = (10.0, 0.85, 20_000_000.0)
_HEADLINES = (
    ("{asset} at {move:+.1%} in a day, sellers in control", -0.25),
    ("{asset} at {move:+.1%} in a day, traders wait", 0.25),
    ("{asset} at {move:+.1%} in a day, buyers in control", math.inf),
)


class SyntheticConfig(Config):
    """Which market to make.

    Parameters
    ----------
    seed : int
        Same seed and settings, same market to the last bit.
    instruments : tuple of str
        Known instruments; the first one leads the others.
    interval : str
        Length of a bar, such as ``15m``.
    start : str
        First bar's open, a date or ISO 8601 time (UTC), on the interval's grid.
    end : str, optional
        Last bar's close. Give this or `days`; without either, half a year (182 days).
    days : int, optional
        Length in days, at most ten years (3,650). All instruments together may have 3,000,000
        bars at most.
    edge : float
        Scale of the predictable part of the next bar's return. 0: none, every sign is a fair coin
        flip. 1: the oracle's AUC is about 0.57, much as one finds on real 15-minute bars.
    gap_frac : float
        Share of bars that open away from the previous close, from 0 (perpetuals trade without a
        pause) to 1.
    news_per_day : float
        Mean number of headlines for each asset.
    """

    seed: int = Field(default=7, ge=0)
    instruments: tuple[str, ...] = (
        "BTCUSDT-PERP.BINANCE",
        "ETHUSDT-PERP.BINANCE",
        "SOLUSDT-PERP.BINANCE",
    )
    interval: str = "15m"
    start: str = "2024-01-01"
    end: str | None = None
    days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    edge: float = Field(default=1.0, ge=0.0, le=5.0)
    gap_frac: float = Field(default=0.0, ge=0.0, le=1.0)
    news_per_day: float = Field(default=4.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end is not None and self.days is not None:
            raise ConfigError(
                f"end and days must not both be given, were end={self.end!r} and days={self.days}; "
                "leave one out"
            )
        if not self.instruments:
            raise ConfigError("instruments must name at least one instrument, was empty")
        if len(set(self.instruments)) != len(self.instruments):
            raise ConfigError(f"instruments must differ, were {', '.join(self.instruments)}")
        bars = self.clock().n_bars * len(self.instruments)
        if bars > MAX_BARS:
            raise ConfigError(
                f"a synthetic market must have at most {MAX_BARS:,} bars, was {bars:,} of "
                f"{self.interval} for {len(self.instruments)} instruments; take fewer days, a "
                f"longer interval or fewer instruments"
            )
        return self

    def clock(self) -> Clock:
        """Return the bars to make.

        Raises
        ------
        ConfigError
            If the interval is unknown, a time is off its grid or the span is empty.
        """
        length = interval_ns(self.interval)
        start = parse_time(self.start)
        if self.end is not None:
            end = parse_time(self.end)
        else:
            end = start + (self.days or DEFAULT_DAYS) * NS_PER_DAY
        for name, text, ts in (("start", self.start, start), ("end", self.end, end)):
            if ts % length:
                raise ConfigError(
                    f"{name} must lie on the grid of {self.interval} bars, was {text!r}"
                )
        if end <= start:
            raise ConfigError(f"end must be after start={self.start!r}, was {self.end!r}")
        return Clock(start, length, (end - start) // length)


def oracle_series(instrument_id: str) -> str:
    """Return the name of the index series with the oracle's probability for an instrument.

    Its level at a bar's close is the probability that the next bar closes higher, given that it
    does not close unchanged.
    """
    return f"oracle.{instrument_id.rsplit('.', 1)[0]}"


def generate(config: SyntheticConfig) -> Iterator[Batch]:
    """Yield the market's batches: bars, funding, oracle, on-chain and news for each instrument.

    Parameters
    ----------
    config : SyntheticConfig
        Which market.

    Yields
    ------
    Batch
        Marked synthetic; sorted by `ts_init`, nothing known after the last bar's close and,
        but for the funding rate in force at the start, nothing before the first bar's open.

    Raises
    ------
    ConfigError
        If an instrument is unknown.
    """
    clock = config.clock()
    assets = tuple(_asset(name) for name in config.instruments)
    market = simulate(assets, clock, edge=config.edge, gap_frac=config.gap_frac, seed=config.seed)
    for number, name in enumerate(config.instruments):
        yield _bars(bar_type(name, config.interval), market, number)
        yield _oracle(name, market, number)
        own = _Stream(name, clock, market.ts_close, market.close[:, number], config)
        yield own.funding()
        yield own.onchain(market.volume[:, number])
        if config.news_per_day > 0.0:
            yield own.news()


def _asset(instrument_id: str) -> Asset:
    """Return the process parameters of an instrument, its steps from its definition."""
    definition = instrument(instrument_id)
    price, volatility, volume = _KNOWN_ASSETS.get(_base(instrument_id), _OTHER_ASSET)
    return Asset(
        price=price,
        annual_volatility=volatility,
        daily_volume=volume,
        tick=float(str(definition.price_increment)),
        step=float(str(definition.size_increment)),
    )


def _base(instrument_id: str) -> str:
    """Return the base asset: ``BTC`` of ``BTCUSDT-PERP.BINANCE``."""
    return instrument_id.split(".", 1)[0].split("-", 1)[0].removesuffix("USDT")


def _batch(kind: Kind, series: str, columns: dict[str, AnyArray]) -> Batch:
    return Batch(kind=kind, series=series, columns=columns, source=SOURCE, synthetic=True)


def _text(value: str, n_records: int) -> AnyArray:
    """Return a column that says the same in every record."""
    return np.full(n_records, value, dtype=object)


def _bars(series: str, market: Market, number: int) -> Batch:
    return _batch(
        "bars",
        series,
        {
            "ts_event": market.ts_close,
            "ts_init": market.ts_close,
            "open": market.open[:, number],
            "high": market.high[:, number],
            "low": market.low[:, number],
            "close": market.close[:, number],
            "volume": market.volume[:, number],
        },
    )


def _oracle(instrument_id: str, market: Market, number: int) -> Batch:
    level = market.probability_up[:, number]
    return _batch(
        "index",
        oracle_series(instrument_id),
        {
            "ts_event": market.ts_close,
            "ts_init": market.ts_close,
            "open": level,
            "high": level,
            "low": level,
            "close": level,
            "unit": _text("probability", len(level)),
        },
    )


class _Stream:
    """The slow series of one instrument, each from a random stream of its own."""

    def __init__(
        self,
        instrument_id: str,
        clock: Clock,
        ts_close: Int64Array,
        close: Float64Array,
        config: SyntheticConfig,
    ) -> None:
        self.base = _base(instrument_id)
        self.instrument_id = instrument_id
        self.start, self.end = clock.start, int(ts_close[-1])
        self.ts_close, self.close = ts_close, close
        self.news_per_day = config.news_per_day
        # The name is part of the seed, so that leaving out an instrument changes no other's news.
        key = [config.seed, *self.instrument_id.encode()]
        children = np.random.SeedSequence(key).spawn(3)
        self.randoms = [np.random.default_rng(child) for child in children]

    def grid(self, step_ns: int) -> Int64Array:
        """Return the multiples of `step_ns` from the last one known at the start to the end."""
        first = self.start // step_ns
        # Not arange with a step: it counts in floating point, which loses the last one.
        return np.arange(first, self.end // step_ns + 1, dtype=np.int64) * step_ns

    def price_at(self, ts: Int64Array) -> Float64Array:
        """Return the last close known at each time; the first close before there is one."""
        row = np.searchsorted(self.ts_close, ts, side="right") - 1
        return self.close[np.maximum(row, 0)]

    def log_return(self, ts: Int64Array, span_ns: int) -> Float64Array:
        """Return the log return over the `span_ns` before each time."""
        return np.asarray(np.log(self.price_at(ts) / self.price_at(ts - span_ns)))

    def funding(self) -> Batch:
        """Make a rate for each settlement: 0.01 % plus a premium that follows the last day.

        The first one is that of the last settlement at or before the start, known since then.
        """
        ts = self.grid(FUNDING_INTERVAL_NS)
        noise = self.randoms[0].standard_normal(len(ts))
        premium = 2.0e-4 * np.tanh(25.0 * self.log_return(ts, NS_PER_DAY)) + 6.0e-5 * noise
        rate = np.round(np.clip(1.0e-4 + premium, -0.0075, 0.0075), 8)
        return _batch("funding", self.instrument_id, {"ts_event": ts, "ts_init": ts, "rate": rate})

    def onchain(self, volume: Float64Array) -> Batch:
        """Make the daily metrics of an asset, known `ONCHAIN_DELAY_NS` after each day's end."""
        days = self.grid(NS_PER_DAY)[1:]
        days = days[days + ONCHAIN_DELAY_NS <= self.end]
        noise = self.randoms[1].standard_normal((len(days), 4))
        traded = np.append(0.0, np.cumsum(volume * self.close))
        edges = np.searchsorted(self.ts_close, np.stack([days - NS_PER_DAY, days]), side="right")
        turnover = traded[edges[1]] - traded[edges[0]]
        day_return = self.log_return(days, NS_PER_DAY)
        month = np.maximum(1, np.minimum(30, (days - self.start) // NS_PER_DAY))
        mean_price = np.array(
            [
                self.price_at(day - np.arange(count, dtype=np.int64) * NS_PER_DAY).mean()
                for day, count in zip(days, month, strict=True)
            ]
        )
        inflow = 0.02 * turnover * np.exp(0.15 * noise[:, 0] - 2.0 * day_return)
        outflow = 0.02 * turnover * np.exp(0.15 * noise[:, 1] + 2.0 * day_return)
        metrics: dict[str, tuple[Float64Array, str]] = {
            "AdrActCnt": (np.rint(8.0e5 * np.exp(0.08 * noise[:, 2])), "count"),
            "TxTfrCnt": (np.rint(6.0e5 * np.exp(0.10 * noise[:, 3])), "count"),
            "FlowInExUSD": (np.round(inflow, 2), "USD"),
            "FlowOutExUSD": (np.round(outflow, 2), "USD"),
            "CapMVRVCur": (np.round(1.8 * self.price_at(days) / mean_price, 6), "ratio"),
        }
        return _batch(
            "onchain",
            f"synthetic.{self.base.lower()}",
            _long_format(days, days + ONCHAIN_DELAY_NS, metrics),
        )

    def news(self) -> Batch:
        """Make headlines that comment on the day before, more of them after large moves."""
        random = self.randoms[2]
        length = int(self.ts_close[1] - self.ts_close[0]) if len(self.ts_close) > 1 else NS_PER_DAY
        moves = np.abs(self.log_return(self.ts_close, length))
        stir = 0.5 + 0.5 * np.minimum(4.0, moves / max(float(moves.mean()), 1e-12))
        count = random.poisson(self.news_per_day * length / NS_PER_DAY * stir)
        row = np.repeat(np.arange(len(count)), count)
        delay = 1 + random.integers(0, max(1, length // NS_PER_SECOND), len(row))
        published = np.unique(self.ts_close[row] + delay * NS_PER_SECOND)
        published = published[published + SCORING_DELAY_NS <= self.end]
        move = self.log_return(published, NS_PER_DAY)
        feeling = np.tanh(20.0 * move + 0.4 * random.standard_normal(len(published)))
        # Some headlines are never scored; readers must cope with that.
        scored = random.random(len(published)) >= 0.05
        headlines = np.array(
            [self._headline(*pair) for pair in zip(move.tolist(), feeling.tolist(), strict=True)],
            dtype=object,
        )
        columns: dict[str, AnyArray] = {
            "ts_event": published,
            "ts_init": published + SCORING_DELAY_NS,
            "headline": headlines,
            "source": _text(NEWS_SERIES, len(published)),
            "asset": _text(self.base.lower(), len(published)),
            "score": np.where(scored, np.round(feeling, 3), np.nan),
            "ts_published": published,
        }
        return _batch("news", f"{NEWS_SERIES}.{self.base.lower()}", columns)

    def _headline(self, move: float, feeling: float) -> str:
        template = next(text for text, limit in _HEADLINES if feeling < limit)
        return template.format(asset=self.base, move=move)


def _long_format(
    ts_event: Int64Array,
    ts_init: Int64Array,
    metrics: dict[str, tuple[Float64Array, str]],
) -> dict[str, AnyArray]:
    """Return one record for each day and metric, days first."""
    values: NDArray[np.float64] = np.stack([value for value, _ in metrics.values()], axis=1)
    n_days, n_metrics = values.shape
    return {
        "ts_event": np.repeat(ts_event, n_metrics),
        "ts_init": np.repeat(ts_init, n_metrics),
        "metric": np.tile(np.array(list(metrics), dtype=object), n_days),
        "value": values.ravel(),
        "unit": np.tile(np.array([unit for _, unit in metrics.values()], dtype=object), n_days),
    }
