"""The inputs beside bars and funding: slow series, order flow and one-minute bars, as columns.

Known without the engine, so that a predictor can be warmed up where no engine is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from catalog.arrays import BarArrays, Float64Array, Int64Array, Ohlcv, span_slice
from catalog.errors import DataError

if TYPE_CHECKING:
    from research.predictor import Predictor, PredictorSpec

type Update = tuple[int, Callable[..., None], tuple[Any, ...]]
"""When something became known, and the call that tells a predictor."""


class EventColumns(Protocol):
    """The records of a slow series; see `research.panel.EventArrays`."""

    @property
    def ts_init(self) -> Int64Array:
        """When each record became known, (n_records,), sorted, UTC nanoseconds."""

    @property
    def value(self) -> Float64Array:
        """Its value, (n_records,); for news the score."""

    @property
    def extra(self) -> Float64Array | None:
        """A second value, (n_records,); for news the novelty."""


class FlowColumns(Protocol):
    """The order flow of an instrument's bars; see `catalog.store.FlowArrays`."""

    @property
    def ts_init(self) -> Int64Array:
        """Close of each bar, (n_bars,), sorted, UTC nanoseconds."""

    @property
    def quote_volume(self) -> Float64Array:
        """Traded value, (n_bars,), quote units."""

    @property
    def trade_count(self) -> Int64Array:
        """Number of trades, (n_bars,)."""

    @property
    def taker_buy_volume(self) -> Float64Array:
        """Volume bought by takers, (n_bars,), base units."""

    @property
    def taker_buy_quote_volume(self) -> Float64Array:
        """The same, (n_bars,), quote units."""


@dataclass(frozen=True, slots=True)
class SlowInputs:
    """What a predictor may need beside bars and funding.

    Parameters
    ----------
    series : mapping of str to EventColumns
        Slow series by name: ``onchain.<catalog series>.<metric>``, ``index.<catalog series>``,
        ``news.<catalog series>``.
    flow : mapping of str to FlowColumns
        Order flow of the bars, by instrument id.
    minutes : mapping of str to BarArrays
        One-minute bars by instrument id.
    after : int, optional
        Only what became known after this time is fed, UTC nanoseconds; None for everything. A
        replay goes on where its warm start ended, and nothing may be fed twice: news are counted.
    """

    series: Mapping[str, EventColumns] = field(default_factory=dict)
    flow: Mapping[str, FlowColumns] = field(default_factory=dict)
    minutes: Mapping[str, BarArrays] = field(default_factory=dict)
    after: int | None = None

    def needed_by(self, spec: PredictorSpec) -> SlowInputs:
        """Return only what a predictor asks for.

        Raises
        ------
        DataError
            If something that it asks for is not there.
        """
        _require("series", spec.series, self.series)
        if spec.uses_flow:
            _require("order flow", spec.instruments, self.flow)
        if spec.uses_minutes:
            _require("one-minute bars", spec.instruments, self.minutes)
        return replace(
            self,
            series={name: self.series[name] for name in spec.series},
            flow={name: self.flow[name] for name in spec.instruments} if spec.uses_flow else {},
            minutes={name: self.minutes[name] for name in spec.instruments}
            if spec.uses_minutes
            else {},
        )

    def __len__(self) -> int:
        times = [one.ts_init for one in self.series.values()]
        times += [one.ts_init for one in self.flow.values()]
        times += [one.ts_init for one in self.minutes.values()]
        return sum(len(column[self.rows(column, None, None)]) for column in times)

    def rows(self, ts_init: Int64Array, after: int | None, until: int | None) -> slice:
        """Return the rows of a column of times in ``(after, until]``, and after `self.after`."""
        limits = [limit for limit in (after, self.after) if limit is not None]
        return span_slice(ts_init, max(limits, default=None), until)

    def events(
        self, name: str, after: int | None, until: int | None
    ) -> Iterator[tuple[int, float, float]]:
        """Yield time, value and second value (NaN where there is none) of a series."""
        one = self.series[name]
        rows = self.rows(one.ts_init, after, until)
        extra = repeat(float("nan")) if one.extra is None else one.extra[rows].tolist()
        return zip(one.ts_init[rows].tolist(), one.value[rows].tolist(), extra, strict=False)

    def flows(
        self, name: str, after: int | None, until: int | None
    ) -> Iterator[tuple[int, float, int, float, float]]:
        """Yield time and values of an instrument's order flow, in the order of `BarFlow`."""
        one = self.flow[name]
        rows = self.rows(one.ts_init, after, until)
        columns = (
            one.quote_volume,
            one.trade_count,
            one.taker_buy_volume,
            one.taker_buy_quote_volume,
        )
        lists = (column[rows].tolist() for column in columns)
        return zip(one.ts_init[rows].tolist(), *lists, strict=True)

    def minute_bars(
        self, name: str, after: int | None, until: int | None
    ) -> Iterator[tuple[int, Ohlcv]]:
        """Yield time and bar of an instrument's minutes."""
        one = self.minutes[name]
        rows = self.rows(one.ts_init, after, until)
        columns = (one.open, one.high, one.low, one.close, one.volume)
        bars = map(Ohlcv, *(column[rows].tolist() for column in columns))
        return zip(one.ts_init[rows].tolist(), bars, strict=True)

    def updates(
        self, predictor: Predictor, after: int | None, until: int | None
    ) -> Iterator[Update]:
        """Yield what tells a predictor everything that became known, in order of time.

        Parameters
        ----------
        predictor : Predictor
            Who is told.
        after : int, optional
            Begin of what is told of order flow and minutes. Of a series everything is told: what
            is known of it may be older than any bar that counts.
        until : int, optional
            End, inclusive.
        """
        parts = [_series_updates(self, predictor, name, until) for name in self.series]
        parts += [_flow_updates(self, predictor, name, after, until) for name in self.flow]
        parts += [_minute_updates(self, predictor, name, after, until) for name in self.minutes]
        return merge(*parts, key=itemgetter(0))


def _series_updates(
    slow: SlowInputs, predictor: Predictor, name: str, until: int | None
) -> Iterator[Update]:
    for ts, value, extra in slow.events(name, None, until):
        yield ts, predictor.update_series, (name, value, ts, extra)


def _flow_updates(
    slow: SlowInputs, predictor: Predictor, name: str, after: int | None, until: int | None
) -> Iterator[Update]:
    for ts, *values in slow.flows(name, after, until):
        yield ts, predictor.update_flow, (name, tuple(map(float, values)), ts)


def _minute_updates(
    slow: SlowInputs, predictor: Predictor, name: str, after: int | None, until: int | None
) -> Iterator[Update]:
    for ts, bar in slow.minute_bars(name, after, until):
        yield ts, predictor.update_minute, (name, ts, bar)


def _require(what: str, names: tuple[str, ...], held: Mapping[str, object]) -> None:
    missing = [name for name in names if name not in held]
    if missing:
        raise DataError(
            f"{what} that the predictor asks for must be among the inputs "
            f"({', '.join(held) or 'none'}), lacked {', '.join(missing)}: load them with the bars"
        )
