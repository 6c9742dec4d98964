"""Other futures: a panel whose past is left alone and whose rest is changed, in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import BarArrays, Float64Array, SeriesArrays
from catalog.store import FlowArrays
from research.events import EventArrays, flow_between
from research.panel import Panel


def perturbed(panel: Panel, cut: int, seed: int = 0) -> Iterator[tuple[str, Panel]]:
    """Yield the panel with several other futures after `cut`, each with the name of its kind."""
    for place, (name, other) in enumerate(PERTURBATIONS.items()):
        random = np.random.default_rng([seed, place, cut % 2**32])

        def changed(
            one: BarArrays, change: ChangeBars = other.bars, random: np.random.Generator = random
        ) -> BarArrays:
            return _spliced(one, cut, change(_last_close(one, cut), one.between(cut, None), random))

        yield (
            name,
            replace(
                panel,
                bars=tuple(changed(one) for one in panel.bars),
                funding={
                    key: _spliced_series(one, cut, other.funding(one.between(cut, None), random))
                    for key, one in panel.funding.items()
                },
                minutes={key: changed(one) for key, one in panel.minutes.items()},
                flow={
                    key: _joined(
                        flow_between(one, None, cut),
                        other.flow(flow_between(one, cut, None), random),
                        _FLOW_COLUMNS,
                    )
                    for key, one in panel.flow.items()
                },
                series={
                    key: _joined(
                        one.between(None, cut),
                        other.events(one.between(cut, None), random),
                        _columns_of(one),
                    )
                    for key, one in panel.series.items()
                },
            ),
        )


def _truncate(_: float, bars: BarArrays, __: np.random.Generator) -> BarArrays:
    return bars.between(None, int(bars.ts_init[0]) - 1) if len(bars) else bars


def _scale(_: float, bars: BarArrays, random: np.random.Generator) -> BarArrays:
    """Move every bar to another level, and shuffle the volumes."""
    factor = np.exp(random.choice([-1.0, 1.0], len(bars)) * random.uniform(0.5, 2.0, len(bars)))
    volume = 10.0 * random.permutation(bars.volume) + 1.0
    return _with_prices(bars, bars.open, bars.high, bars.low, bars.close, factor, volume)


def _mirror(last: float, bars: BarArrays, _: np.random.Generator) -> BarArrays:
    """Turn rises into falls: what knows only the direction must notice."""
    square = np.full(len(bars), last * last)
    return _with_prices(
        bars,
        square / bars.open,
        square / bars.low,
        square / bars.high,
        square / bars.close,
        np.ones(len(bars)),
        bars.volume[::-1].copy(),
    )


def _next_bar(_: float, bars: BarArrays, __: np.random.Generator) -> BarArrays:
    """Change the very next bar alone."""
    factor = np.ones(len(bars))
    factor[:1] = 0.5
    volume = bars.volume.copy()
    volume[:1] = 7.0 * volume[:1] + 1.0
    return _with_prices(bars, bars.open, bars.high, bars.low, bars.close, factor, volume)


def _thin(_: float, bars: BarArrays, __: np.random.Generator) -> BarArrays:
    """Leave every other bar out, beginning with the next."""
    kept = np.arange(len(bars)) % 2 == 1
    columns: dict[str, Any] = {name: getattr(bars, name)[kept] for name in _COLUMNS}
    return replace(bars, **columns)


def _no_rates(series: SeriesArrays, _: np.random.Generator) -> SeriesArrays:
    return _with_rates(series, np.zeros(len(series), dtype=np.bool_), series.value)


def _other_rates(series: SeriesArrays, random: np.random.Generator) -> SeriesArrays:
    value = -3.0 * series.value + random.choice([-1e-3, 1e-3], len(series))
    return _with_rates(series, np.ones(len(series), dtype=np.bool_), value)


def _no_flow(flow: FlowArrays, _: np.random.Generator) -> FlowArrays:
    return _kept(flow, np.zeros(len(flow), dtype=np.bool_), _FLOW_COLUMNS)


def _other_flow(flow: FlowArrays, random: np.random.Generator) -> FlowArrays:
    """Turn buyers into sellers, in trades of another size."""
    factor = random.uniform(2.0, 5.0, len(flow))
    return replace(
        flow,
        quote_volume=factor * flow.quote_volume + 1.0,
        trade_count=7 * flow.trade_count + 3,
        taker_buy_volume=factor * (flow.quote_volume - flow.taker_buy_quote_volume),
        taker_buy_quote_volume=factor * (flow.quote_volume - flow.taker_buy_quote_volume),
    )


def _no_events(events: EventArrays, _: np.random.Generator) -> EventArrays:
    return _kept(events, np.zeros(len(events), dtype=np.bool_), _columns_of(events))


def _fewer_events(events: EventArrays, _: np.random.Generator) -> EventArrays:
    """Leave every other record out, beginning with the next."""
    return _kept(events, np.arange(len(events)) % 2 == 1, _columns_of(events))


def _other_events(events: EventArrays, random: np.random.Generator) -> EventArrays:
    """Give records other values; what has no score keeps none."""
    factor = np.exp(random.choice([-1.0, 1.0], len(events)) * random.uniform(0.5, 2.0, len(events)))
    extra = None if events.extra is None else 1.0 - 0.5 * events.extra
    return replace(events, value=events.value * factor, extra=extra)


def _next_event(events: EventArrays, _: np.random.Generator) -> EventArrays:
    """Change the very next record alone."""
    value = events.value.copy()
    value[:1] = 0.5 * value[:1]
    return replace(events, value=value)


type ChangeBars = Callable[[float, BarArrays, np.random.Generator], BarArrays]
type ChangeFunding = Callable[[SeriesArrays, np.random.Generator], SeriesArrays]
type ChangeFlow = Callable[[FlowArrays, np.random.Generator], FlowArrays]
type ChangeEvents = Callable[[EventArrays, np.random.Generator], EventArrays]


class Future(NamedTuple):
    """How what comes after a cut is changed: bars of any length, rates, order flow, records."""

    bars: ChangeBars
    funding: ChangeFunding
    flow: ChangeFlow
    events: ChangeEvents


_COLUMNS = ("ts_init", "open", "high", "low", "close", "volume")
_FLOW_COLUMNS = (
    *("ts_init", "quote_volume", "trade_count"),
    *("taker_buy_volume", "taker_buy_quote_volume"),
)
PERTURBATIONS: Mapping[str, Future] = {
    "cut off": Future(_truncate, _no_rates, _no_flow, _no_events),
    "moved to other levels": Future(_scale, _other_rates, _other_flow, _other_events),
    "mirrored": Future(_mirror, _other_rates, _other_flow, _other_events),
    "changed in the next bar": Future(_next_bar, _other_rates, _other_flow, _next_event),
    "thinned out": Future(_thin, _no_rates, _no_flow, _fewer_events),
}
"""How the future is changed, and how it is called in messages."""


def _columns_of(events: EventArrays) -> tuple[str, ...]:
    return ("ts_init", "value") if events.extra is None else ("ts_init", "value", "extra")


def _kept[T: (FlowArrays, EventArrays)](
    one: T, rows: NDArray[np.bool_], names: tuple[str, ...]
) -> T:
    columns: dict[str, Any] = {name: getattr(one, name)[rows] for name in names}
    return replace(one, **columns)


def _joined[T: (FlowArrays, EventArrays)](known: T, later: T, names: tuple[str, ...]) -> T:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(known, name), getattr(later, name)]) for name in names
    }
    return replace(known, **columns)


def _with_prices(
    bars: BarArrays,
    first: Float64Array,
    high: Float64Array,
    low: Float64Array,
    last: Float64Array,
    factor: Float64Array,
    volume: Float64Array,
) -> BarArrays:
    return replace(
        bars,
        open=first * factor,
        high=high * factor,
        low=low * factor,
        close=last * factor,
        volume=volume,
    )


def _with_rates(series: SeriesArrays, kept: NDArray[np.bool_], value: Float64Array) -> SeriesArrays:
    return replace(
        series, ts_event=series.ts_event[kept], ts_init=series.ts_init[kept], value=value[kept]
    )


def _last_close(bars: BarArrays, cut: int) -> float:
    """Return the close known at the cut (the first one where none is)."""
    known = bars.between(None, cut).close
    closes = known[-1:] if len(known) else bars.close[:1]
    return float(closes[0]) if len(closes) else 1.0


def _spliced(bars: BarArrays, cut: int, later: BarArrays) -> BarArrays:
    known = bars.between(None, cut)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(known, name), getattr(later, name)]) for name in _COLUMNS
    }
    return replace(bars, **columns)


def _spliced_series(series: SeriesArrays, cut: int, later: SeriesArrays) -> SeriesArrays:
    known = series.between(None, cut)
    return replace(
        series,
        ts_event=np.concatenate([known.ts_event, later.ts_event]),
        ts_init=np.concatenate([known.ts_init, later.ts_init]),
        value=np.concatenate([known.value, later.value]),
    )
