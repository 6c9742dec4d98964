"""Slow inputs on their way through the engine: columns become custom data, and those become calls.

`records` and `pass_on` are each other's inverse, so that a predictor behind an engine is told what
one without is (`SlowInputs.updates`). Data types carry the name of their series, by which they are
subscribed to and told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from nautilus_trader.model import CustomData, DataType

from catalog.arrays import Ohlcv
from catalog.errors import ConfigError
from catalog.instruments import bar_type, parse_bar_type
from catalog.timestamps import interval_name
from catalog.types import BarFlow, IndexLevel, MinuteBar, NewsArrival, OnchainMetrics
from research.predictor import Predictor, PredictorSpec
from strategies.slow_data import SlowInputs

# The decorator adds ts_event and ts_init in front, unseen by the type checker.
type _New = Callable[..., Any]
_onchain: _New = OnchainMetrics
_index: _New = IndexLevel
_news: _New = NewsArrival
_flow: _New = BarFlow
_minute: _New = MinuteBar


def subscriptions(spec: PredictorSpec) -> list[DataType]:
    """Return the data types that a predictor must be subscribed to, each once.

    Raises
    ------
    ConfigError
        If a series' name is of no known kind.
    """
    found = [_series_type(name) for name in spec.series]
    if spec.uses_flow:
        found += [_flow_type(name, spec.interval_ns) for name in spec.instruments]
    if spec.uses_minutes:
        found += [_minute_type(name) for name in spec.instruments]
    return list(dict.fromkeys(found))


def slow_records(
    slow: SlowInputs, interval_ns: int, after: int | None, until: int | None
) -> Iterator[list[CustomData]]:
    """Yield the records of ``(after, until]`` as the engine's custom data, by series.

    Parameters
    ----------
    slow : SlowInputs
        Only what somebody subscribes to: a record of one minute takes longer to make than a bar.
    interval_ns : int
        Length of the bars that the order flow belongs to, nanoseconds.
    after, until : int, optional
        UTC nanoseconds; None does not limit.
    """
    for name in slow.series:
        kind, make = _series_type(name), _series_record(name)
        yield [
            CustomData(kind, make(ts, value, extra))
            for ts, value, extra in slow.events(name, after, until)
        ]
    for name in slow.flow:
        kind = _flow_type(name, interval_ns)
        bars = kind.identifier
        yield [
            CustomData(kind, _flow(ts, ts, bars, *values))
            for ts, *values in slow.flows(name, after, until)
        ]
    for name in slow.minutes:
        kind = _minute_type(name)
        yield [
            CustomData(kind, _minute(ts, ts, name, *bar))
            for ts, bar in slow.minute_bars(name, after, until)
        ]


def pass_on(predictor: Predictor, data: CustomData) -> None:
    """Tell a predictor what a record says.

    Raises
    ------
    ConfigError
        If the record is none that a predictor can be subscribed to.
    """
    record = data.data
    handle = _HANDLERS.get(type(record))
    if handle is None:
        raise ConfigError(
            f"data of a predictor must be one of {', '.join(kind.__name__ for kind in _HANDLERS)}, "
            f"was {type(record).__name__}: subscribe to `strategies.slow_records.subscriptions`"
        )
    handle(predictor, record, str(data.data_type.identifier))


def input_name(data: CustomData) -> str:
    """Return what a predictor calls the input that a record is of: ``index.dvol.btc``.

    Of order flow and minutes, which have no such name, the type's name and what it is of.
    """
    record, identifier = data.data, str(data.data_type.identifier)
    kind = _PREFIXES.get(type(record))
    if kind is None:
        return f"{type(record).__name__}.{identifier}"
    return f"{kind}.{identifier}" + (f".{record.metric}" if kind == "onchain" else "")


_PREFIXES: dict[type, str] = {OnchainMetrics: "onchain", IndexLevel: "index", NewsArrival: "news"}


def _series_type(name: str) -> DataType:
    kind, _, series = name.partition(".")
    if kind == "onchain" and "." in series:
        # As the catalog stores them: a series holds several metrics.
        return DataType("OnchainMetrics", None, series.rpartition(".")[0])
    if kind == "index" and series:
        return DataType("IndexLevel", None, series)
    if kind == "news" and series:
        return DataType("NewsArrival", None, series)
    raise ConfigError(
        f"name of a slow series must be onchain.<series>.<metric>, index.<series> or "
        f"news.<series>, was {name!r}: correct the predictor's specification"
    )


def _flow_type(instrument_id: str, interval_ns: int) -> DataType:
    return DataType("BarFlow", None, bar_type(instrument_id, interval_name(interval_ns)))


def _minute_type(instrument_id: str) -> DataType:
    return DataType("MinuteBar", None, instrument_id)


def _series_record(name: str) -> Callable[[int, float, float], Any]:
    """Return what makes a series' record; what the columns do not know stays at its default."""
    kind, _, series = name.partition(".")
    if kind == "onchain":
        series, _, metric = series.rpartition(".")
        asset = series.rpartition(".")[2]
        return lambda ts, value, _: _onchain(ts, ts, asset, metric, value)
    if kind == "index":
        return lambda ts, value, _: _index(ts, ts, series, close=value)
    return lambda ts, value, extra: _news(ts, ts, series, value, extra)


def _pass_onchain(predictor: Predictor, record: Any, identifier: str) -> None:
    name = f"onchain.{identifier}.{record.metric}"
    # A vendor sends all its metrics, of which a predictor may use one.
    if name in predictor.spec.series:
        predictor.update_series(name, record.value, record.ts_init)


def _pass_index(predictor: Predictor, record: Any, identifier: str) -> None:
    predictor.update_series(f"index.{identifier}", record.close, record.ts_init)


def _pass_news(predictor: Predictor, record: Any, identifier: str) -> None:
    name = f"news.{identifier}"
    predictor.update_series(name, record.score, record.ts_init, record.novelty)


def _pass_flow(predictor: Predictor, record: Any, identifier: str) -> None:
    values = (
        record.quote_volume,
        float(record.trade_count),
        record.taker_buy_volume,
        record.taker_buy_quote_volume,
    )
    predictor.update_flow(_instrument_of(identifier), values, record.ts_init)


def _pass_minute(predictor: Predictor, record: Any, identifier: str) -> None:
    bar = Ohlcv(record.open, record.high, record.low, record.close, record.volume)
    predictor.update_minute(identifier, record.ts_init, bar)


_HANDLERS: dict[type, Callable[[Predictor, Any, str], None]] = {
    OnchainMetrics: _pass_onchain,
    IndexLevel: _pass_index,
    NewsArrival: _pass_news,
    BarFlow: _pass_flow,
    MinuteBar: _pass_minute,
}


@lru_cache(maxsize=256)
def _instrument_of(series: str) -> str:
    return parse_bar_type(series)[0]
