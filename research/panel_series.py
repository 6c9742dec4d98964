"""What features look at beside bars, loaded from a catalog: order flow, minutes, slow series.

Everything is read in its first vintage, which is what was known at the time, and lies in a panel
under the time at which it became known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import BarArrays
from catalog.errors import DataError
from catalog.instruments import bar_type
from catalog.timestamps import NS_PER_MINUTE, format_time, interval_ns
from research.events import EventArrays
from research.novelty import novelties
from research.slow_inputs import TEMPOS, Tempo

logger = logging.getLogger(__name__)

type Request = tuple[Any, str, int | None, int | None]
"""Kind, series, start and end of data that a run uses."""

NEWS_PREFIX = "news."
"""Begins the names of news among a panel's series."""


@dataclass(frozen=True, slots=True)
class PanelNeeds:
    """What a run looks at beside its bars; see `research.features.panel_needs`.

    Parameters
    ----------
    funding, flow, minutes : bool
        Whether settled funding rates, order flow and 1-minute bars of every instrument are.
    onchain : tuple of (str, tuple of str)
        On-chain series of the catalog, each with its metrics.
    indices, news : tuple of str
        Series of the catalog.
    fear_greed : str, optional
        Which of `indices` is to be a Fear & Greed index; the others are implied volatilities.
    history_ns : int
        How far back before the first bar slow series are looked at.
    funding_history_ns : int
        The same for funding.
    """

    funding: bool = False
    flow: bool = False
    minutes: bool = False
    onchain: tuple[tuple[str, tuple[str, ...]], ...] = ()
    indices: tuple[str, ...] = ()
    news: tuple[str, ...] = ()
    fear_greed: str | None = None
    history_ns: int = 0
    funding_history_ns: int = 0

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the slow series, as in `research.panel.Panel.series`."""
        return (
            *(f"onchain.{one}.{metric}" for one, metrics in self.onchain for metric in metrics),
            *(f"index.{series}" for series in self.indices),
            *(f"{NEWS_PREFIX}{series}" for series in self.news),
        )


class SeriesLike(Protocol):
    """What loading needs to know of a stored series; see `catalog.store.SeriesInfo`."""

    @property
    def series(self) -> str:
        """Name of the series: a bar type, or an instrument id for funding."""

    @property
    def start(self) -> int:
        """`ts_init` of the first record, UTC nanoseconds."""

    @property
    def end(self) -> int:
        """`ts_init` of the last record, UTC nanoseconds."""

    @property
    def synthetic(self) -> bool:
        """Whether the records are made up."""


class SeriesSource(Protocol):
    """What loading needs of a catalog; see `catalog.store.Catalog`."""

    def series(self, kind: Any = None) -> Sequence[SeriesLike]:
        """Return what is stored."""

    def records(
        self, kind: Any, series: str, start: int | None = None, end: int | None = None
    ) -> Mapping[str, NDArray[Any]]:
        """Return a series' columns, sorted by `ts_init`."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is asked for: ``start < ts_init <= end``, and bars before `start` for warm-up."""

    interval: str
    start: int
    end: int
    warmup_bars: int

    @property
    def first_needed(self) -> int:
        """The open of the first bar of the warm-up, UTC nanoseconds."""
        return self.start - self.warmup_bars * interval_ns(self.interval)


def load_slow_series(
    catalog: SeriesSource, needs: PanelNeeds, span: Span
) -> tuple[dict[str, EventArrays], list[Request]]:
    """Return the slow series by name, with the history they need, and what was read for them.

    Raises
    ------
    DataError
        If a series is not in the catalog, begins after the span does or ends before it begins,
        or is an index of another kind than what it is taken for. One that ends within the span
        is taken, with a warning: its features grow old and become NaN, and predictions flat.
    """
    since = span.first_needed - needs.history_ns
    loaded: dict[str, EventArrays] = {}
    requests: list[Request] = []
    for series, metrics in needs.onchain:
        _check_cover(catalog, "onchain", [series], span, TEMPOS["onchain_"])
        requests.append(("onchain", series, since, span.end))
        rows = catalog.records(*requests[-1])
        for metric in metrics:
            name = f"onchain.{series}.{metric}"
            loaded[name] = _metric(name, rows, metric, series)
    for series in needs.indices:
        is_fear_greed = series == needs.fear_greed
        tempo = TEMPOS["fear_greed_" if is_fear_greed else "dvol_"]
        _check_cover(catalog, "index", [series], span, tempo)
        requests.append(("index", series, since, span.end))
        rows = catalog.records(*requests[-1])
        _check_index(series, rows, is_fear_greed=is_fear_greed)
        loaded[f"index.{series}"] = EventArrays(f"index.{series}", rows["ts_init"], rows["close"])
    if needs.news:
        _check_cover(catalog, "news", needs.news, span, TEMPOS["news_"])
        news = [("news", series, since, span.end) for series in needs.news]
        requests += news
        loaded |= _news({request[1]: catalog.records(*request) for request in news})
    return loaded, requests


def is_made_up(catalog: SeriesSource, requests: Sequence[Request]) -> bool:
    """Return whether any of the series that belong to no instrument is made up."""
    asked = {(kind, series) for kind, series, _, _ in requests}
    return any(
        info.synthetic and (kind, info.series) in asked
        for kind in sorted({kind for kind, _ in asked})
        for info in catalog.series(kind)
    )


def _metric(name: str, rows: Mapping[str, NDArray[Any]], metric: str, series: str) -> EventArrays:
    chosen = rows["metric"] == metric
    if not chosen.any():
        there = ", ".join(sorted(set(rows["metric"].tolist())))
        raise DataError(
            f"on-chain series {series} must have the metric {metric} in the span, has {there}; "
            "import a series that has it or set features.onchain: null"
        )
    return EventArrays(name, rows["ts_init"][chosen], rows["value"][chosen])


def _news(sources: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, EventArrays]:
    """Return headlines by source with their scores, and their novelty among all of them."""
    ts_init = np.concatenate([rows["ts_init"] for rows in sources.values()])
    headlines = np.concatenate([rows["headline"] for rows in sources.values()])
    order = np.argsort(ts_init, kind="stable")
    novelty = np.empty(len(ts_init))
    novelty[order] = novelties(ts_init[order], headlines[order])
    ends = np.cumsum([len(rows["ts_init"]) for rows in sources.values()])
    parts = np.split(novelty, ends[:-1])
    return {
        f"{NEWS_PREFIX}{series}": EventArrays(
            f"{NEWS_PREFIX}{series}", rows["ts_init"], rows["score"], part
        )
        for (series, rows), part in zip(sources.items(), parts, strict=True)
    }


def _check_index(series: str, rows: Mapping[str, NDArray[Any]], *, is_fear_greed: bool) -> None:
    """Refuse an index whose numbers are of another kind than what it is taken for.

    Fear & Greed is whole points from 0 to 100; an implied volatility, percent a year with
    decimals, lies in the same range, and would pass unseen for the other.
    """
    level = rows["close"]
    points = (level >= 0.0) & (level <= 100.0) & (level == np.floor(level))
    if is_fear_greed and not points.all():
        found = _first(rows, ~points)
        raise DataError(
            f"index {series} must be whole points from 0 to 100 for features.fear_greed, {found}; "
            "name a Fear & Greed index there, or set features.fear_greed: null"
        )
    if not is_fear_greed and not (level > 0.0).all():
        raise DataError(
            f"index {series} must be above 0 for features.dvol, {_first(rows, ~(level > 0.0))}; "
            "name an index of implied volatility there, or take it out"
        )


def _first(rows: Mapping[str, NDArray[Any]], wrong: NDArray[np.bool_]) -> str:
    row = int(np.flatnonzero(wrong)[0])
    unit = f" {rows['unit'][row]}" if "unit" in rows else ""
    return f"was {rows['close'][row]:g}{unit} at {format_time(int(rows['ts_init'][row]))}"


def _check_cover(
    catalog: SeriesSource, kind: str, names: Sequence[str], span: Span, tempo: Tempo
) -> None:
    """Refuse series that are not stored or that do not reach the span, together if several."""
    stored = {info.series: info for info in catalog.series(kind)}
    advice = f"import it with `levibot data import`, or take it out of features.{_OPTION[kind]}"
    for name in names:
        if name not in stored:
            there = ", ".join(sorted(stored)) or "none"
            raise DataError(
                f"{kind} series must be one that is in the catalog ({there}), was {name}; {advice}"
            )
        if stored[name].end <= span.start:
            raise DataError(
                f"{kind} series {name} must reach into the span that begins "
                f"{format_time(span.start)}, ends {format_time(stored[name].end)}; {advice}"
            )
    last = max((stored[name] for name in names), key=lambda one: one.end)
    _tell_of_an_end(kind, last, span, tempo)
    start = min(stored[name].start for name in names)
    if start > span.start:
        raise DataError(
            f"{kind} series {', '.join(names)} must begin no later than the span, "
            f"{format_time(span.start)}, begins {format_time(start)}; begin the span later, or "
            f"{advice}"
        )


def _tell_of_an_end(kind: str, last: SeriesLike, span: Span, tempo: Tempo) -> None:
    """Warn of a series that ends so early in a span that it becomes too old within it."""
    too_old = last.end + tempo.limit_ns
    if too_old < span.end:
        logger.warning(
            "%s series %s ends %s, within the span that ends %s: its features are undefined from "
            "%s on, and predictions flat unless staleness.flat_bars says otherwise; import newer "
            "records or end the span earlier",
            kind,
            last.series,
            format_time(last.end),
            format_time(span.end),
            format_time(too_old),
        )


_OPTION = {"onchain": "onchain", "index": "dvol or features.fear_greed", "news": "news"}


def load_flow(catalog: SeriesSource, name: str, span: Span) -> tuple[Any, Request]:
    """Return an instrument's order flow with that of the warm-up, and what was read for it.

    Raises
    ------
    DataError
        If it is not in the catalog for the whole span. Bars without flow inside of it are left
        to the features, which are NaN there.
    """
    from catalog.store import FlowArrays

    series = bar_type(name, span.interval)
    _check_bars_cover(catalog, ("bar_flow", series), f"order flow of {name}", "flow", span)
    request: Request = ("bar_flow", series, span.first_needed, span.end)
    rows = catalog.records(*request)
    length = interval_ns(span.interval)
    columns = {
        key: rows[key]
        for key in (
            *("ts_init", "quote_volume", "trade_count"),
            *("taker_buy_volume", "taker_buy_quote_volume"),
        )
    }
    return FlowArrays(instrument_id=name, interval_ns=length, **columns), request


def load_minutes(catalog: SeriesSource, name: str, span: Span) -> tuple[BarArrays, Request]:
    """Return an instrument's 1-minute bars with the warm-up's, and what was read for them.

    Raises
    ------
    DataError
        If they are not in the catalog for the whole span. Missing ones inside of it are left to
        the features, which are NaN there.
    """
    series = bar_type(name, "1m")
    _check_bars_cover(catalog, ("bars", series), f"1-minute bars of {name}", "path", span)
    request: Request = ("bars", series, span.first_needed, span.end)
    rows = catalog.records(*request)
    columns = {key: rows[key] for key in ("ts_init", "open", "high", "low", "close", "volume")}
    return BarArrays(instrument_id=name, interval_ns=NS_PER_MINUTE, **columns), request


def _check_bars_cover(
    catalog: SeriesSource, where: tuple[str, str], what: str, option: str, span: Span
) -> None:
    kind, series = where
    info = next((one for one in catalog.series(kind) if one.series == series), None)
    length = interval_ns(span.interval)
    first, last = span.start + length, span.end // length * length
    if info is None or info.start > first or info.end < last:
        there = (
            "are not there"
            if info is None
            else f"are there from {format_time(info.start)} to {format_time(info.end)}"
        )
        raise DataError(
            f"{what} must be in the catalog from {format_time(span.start)} to "
            f"{format_time(span.end)}, {there}; import them, choose a span that has them, or set "
            f"features.{option}: false"
        )
