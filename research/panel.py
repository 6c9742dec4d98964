"""What a run looks at: the bars of its instruments and the funding known beside them.

A `Panel` is plain columns in memory. Everything downstream (features, labels, folds, the
look-ahead audit) is a function of a panel, which is what makes it possible to ask "what would
this have been, had nothing after t happened?".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from catalog.arrays import BarArrays, Int64Array, SeriesArrays
from catalog.errors import DataError
from catalog.instruments import bar_type, parse_bar_type
from catalog.records import MAX_FUNDING_GAP_NS
from catalog.timestamps import NS_PER_HOUR, NS_PER_MINUTE, format_time, interval_name, interval_ns
from research.events import EventArrays, flow_between
from research.panel_series import (
    PanelNeeds,
    Request,
    SeriesLike,
    SeriesSource,
    Span,
    is_made_up,
    load_flow,
    load_minutes,
    load_slow_series,
)

if TYPE_CHECKING:
    from catalog.store import FlowArrays

FUNDING_INTERVAL_NS = 8 * NS_PER_HOUR
"""The longest settlement interval of the perpetuals we know; some settle more often."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The bars and the funding of several instruments over one span.

    Instruments may miss bars, each at other times; nothing is filled in.

    Parameters
    ----------
    interval_ns : int
        Length of every bar in nanoseconds. Bars lie on the grid: `ts_init` is a multiple of it.
    bars : tuple of BarArrays
        One per instrument, in the profile's order, which is the order of instrument codes.
    funding : Mapping of str to SeriesArrays
        Settled funding rates by instrument id (fraction of notional per settlement); `ts_init`
        is when the rate was known. Empty when the features use no funding.
    data_hash : str
        Hash of the stored content that was read.
    synthetic : bool
        Whether any of it was made up.
    flow : Mapping of str to FlowArrays
        Order flow of the bars by instrument id; empty when the features use none.
    minutes : Mapping of str to BarArrays
        1-minute bars by instrument id; empty when the features use none.
    series : Mapping of str to EventArrays
        Slow series by name: ``onchain.<catalog series>.<metric>``, ``index.<catalog series>``,
        ``news.<catalog series>``. With the history before the bars that their features need.

    Raises
    ------
    DataError
        If the parts do not fit together.
    """

    interval_ns: int
    bars: tuple[BarArrays, ...]
    funding: Mapping[str, SeriesArrays]
    data_hash: str
    synthetic: bool
    flow: Mapping[str, FlowArrays] = field(default_factory=dict)
    minutes: Mapping[str, BarArrays] = field(default_factory=dict)
    series: Mapping[str, EventArrays] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.bars:
            raise DataError("panel must hold at least one instrument, was empty")
        names = self.instruments()
        if len(set(names)) != len(names):
            raise DataError(f"instruments of a panel must be distinct, were {', '.join(names)}")
        for bars in self.bars:
            _check_grid(bars, self.interval_ns, " like the panel")
        for what, held in (
            ("funding", self.funding),
            ("order flow", self.flow),
            ("1-minute bars", self.minutes),
        ):
            for name, series in held.items():
                if name not in names:
                    raise DataError(
                        f"{what} must belong to an instrument of the panel, was for {name}"
                    )
                _check_order(f"{what} of {name}", series.ts_init)
        for bars in self.minutes.values():
            _check_grid(bars, NS_PER_MINUTE, "")
        for name, events in self.series.items():
            _check_order(name, events.ts_init)

    def instruments(self) -> tuple[str, ...]:
        """Return the instrument ids in the order of their codes."""
        return tuple(bars.instrument_id for bars in self.bars)

    def truncated(self, ts: int) -> Panel:
        """Return the panel as it was known at `ts` (UTC nanoseconds, inclusive)."""
        return replace(
            self,
            bars=tuple(bars.between(None, ts) for bars in self.bars),
            funding={name: series.between(None, ts) for name, series in self.funding.items()},
            flow={name: flow_between(flow, None, ts) for name, flow in self.flow.items()},
            minutes={name: bars.between(None, ts) for name, bars in self.minutes.items()},
            series={name: events.between(None, ts) for name, events in self.series.items()},
            data_hash=f"{self.data_hash}@{ts}",
        )


def _check_order(what: str, ts_init: Int64Array) -> None:
    if np.any(np.diff(ts_init) < 0):
        raise DataError(f"{what} must be sorted by ts_init, was not")


def _check_grid(bars: BarArrays, interval: int, like: str) -> None:
    """Refuse bars that another interval, a wrong order or a shifted clock would spoil."""
    name = bars.instrument_id
    if bars.interval_ns != interval:
        raise DataError(
            f"bars of {name} must be {interval_name(interval)} long{like}, "
            f"were {interval_name(bars.interval_ns)}"
        )
    if np.any(np.diff(bars.ts_init) <= 0):
        raise DataError(f"bars of {name} must be sorted by ts_init without duplicates, were not")
    off = np.flatnonzero(bars.ts_init % interval)
    if len(off):
        raise DataError(
            f"ts_init of {name} must be a multiple of {interval_name(interval)} (the close), "
            f"was {format_time(int(bars.ts_init[off[0]]))}; import the data again so that "
            "close times are normalised"
        )


class PanelSource(SeriesSource, Protocol):
    """What `load_panel` needs of a catalog; see `catalog.store.Catalog`."""

    def bars(
        self, instrument_id: str, interval: str, start: int | None = None, end: int | None = None
    ) -> BarArrays:
        """Return bars of a span."""

    def funding(
        self, instrument_id: str, start: int | None = None, end: int | None = None
    ) -> SeriesArrays:
        """Return settled funding rates of a span."""

    def data_hash(self, requests: Sequence[Request]) -> str:
        """Return the hash of stored content."""

    def is_synthetic(self, instrument_ids: Sequence[str]) -> bool:
        """Return whether any of it was made up."""


def load_panel(
    catalog: PanelSource,
    instruments: Sequence[str],
    interval: str,
    start: int,
    end: int,
    *,
    needs: PanelNeeds | None = None,
    funding: bool = False,
    warmup_bars: int = 0,
) -> Panel:
    """Load what a run looks at, or say why it cannot be had. Nothing is moved or filled in.

    Parameters
    ----------
    catalog : PanelSource
        Where the data is stored.
    instruments : sequence of str
        Instrument ids; their order decides their codes.
    interval : str
        Such as ``15m``.
    start, end : int
        Span ``start < ts_init <= end``, UTC nanoseconds.
    needs : PanelNeeds, optional
        What is needed beside bars; None: nothing but what `funding` says.
    funding : bool
        Whether funding is needed for the whole span, whatever `needs` says (a replay's costs).
    warmup_bars : int
        Bars to load in front of `start`, so that the first bar of the span has its features.

    Raises
    ------
    ConfigError
        If the interval is unknown.
    DataError
        If the span is empty, a symbol is not in the catalog, its bars begin after `start` (less
        the warm-up) or end before `end`, funding is missing for a part of the span, something
        else that is needed is not stored or does not reach over the span, or what is stored has a
        fatal fault.
    IntegrityError
        If a file of the catalog is missing or damaged.
    """
    if not instruments:
        raise DataError("instruments must name at least one, were none")
    span = Span(interval, start, end, warmup_bars)
    if end - start < interval_ns(interval):
        raise DataError(
            f"span must hold at least one bar of {interval}, was {format_time(start)} to "
            f"{format_time(end)}"
        )
    wanted = needs or PanelNeeds()
    bars, requests = _load_bars(catalog, instruments, span)
    rates: dict[str, SeriesArrays] = {}
    if funding or wanted.funding:
        rates, asked = _load_rates(catalog, instruments, span, wanted.funding_history_ns)
        requests += asked
    flow: dict[str, FlowArrays] = {}
    minutes: dict[str, BarArrays] = {}
    for name in instruments:
        if wanted.flow:
            flow[name], request = load_flow(catalog, name, span)
            requests.append(request)
        if wanted.minutes:
            minutes[name], request = load_minutes(catalog, name, span)
            requests.append(request)
    series, asked = load_slow_series(catalog, wanted, span)
    requests += asked
    _check_soundness(catalog, requests[len(bars) :])
    return Panel(
        interval_ns=interval_ns(interval),
        bars=bars,
        funding=rates,
        data_hash=catalog.data_hash(requests),
        synthetic=catalog.is_synthetic(instruments) or is_made_up(catalog, asked),
        flow=flow,
        minutes=minutes,
        series=series,
    )


def _load_bars(
    catalog: PanelSource, instruments: Sequence[str], span: Span
) -> tuple[tuple[BarArrays, ...], list[Request]]:
    """Return the bars of all instruments, with those of the warm-up, and what was read."""
    stored = {info.series: info for info in catalog.series("bars")}
    bars: list[BarArrays] = []
    requests: list[Request] = []
    for name in instruments:
        _check_bar_span(name, stored, span)
        requests.append(("bars", bar_type(name, span.interval), span.first_needed, span.end))
        _check_soundness(catalog, requests[-1:])
        one = catalog.bars(name, span.interval, span.first_needed, span.end)
        if not len(one.between(span.start, span.end)):
            raise DataError(
                f"{name} must have bars of {span.interval} between {format_time(span.start)} and "
                f"{format_time(span.end)}, has none: there is a gap in the data"
            )
        bars.append(one)
    return tuple(bars), requests


def _load_rates(
    catalog: PanelSource, instruments: Sequence[str], span: Span, history_ns: int
) -> tuple[dict[str, SeriesArrays], list[Request]]:
    """Return the funding of all instruments, with the history it needs, and what was read."""
    # One interval more, so that the first bar knows the rate that was settled before it.
    since = span.first_needed - max(FUNDING_INTERVAL_NS, history_ns)
    rates: dict[str, SeriesArrays] = {}
    requests: list[Request] = []
    for name in instruments:
        rates[name] = _load_funding(catalog, name, since, span.end)
        _check_funding_span(rates[name], span)
        requests.append(("funding", name, since, span.end))
    return rates, requests


def _check_soundness(source: PanelSource, requests: Sequence[Request]) -> None:
    """Refuse what `levibot data check` calls a fatal fault; sources in memory have no files."""
    # Imported here, because live processes use panels' types but store nothing.
    from catalog.quality import require_sound
    from catalog.store import Catalog

    if isinstance(source, Catalog):
        require_sound(source, requests)


def _check_bar_span(name: str, stored: Mapping[str, SeriesLike], span: Span) -> None:
    """Refuse a symbol that is not stored or whose bars do not reach over the span."""
    info = stored.get(bar_type(name, span.interval))
    if info is None:
        raise DataError(_not_stored(name, stored, span.interval))
    length = interval_ns(span.interval)
    first_close = (span.first_needed // length + 1) * length
    if info.start > first_close:
        earliest = info.start - length + span.warmup_bars * length
        warm = f" plus {span.warmup_bars} bars of warm-up" if span.warmup_bars else ""
        raise DataError(
            f"start must be no earlier than the data of {name} ({format_time(info.start - length)}"
            f"){warm}, was {format_time(span.start)}; start at {format_time(earliest)} or import "
            "older bars"
        )
    last_close = span.end // length * length
    if info.end < last_close:
        raise DataError(
            f"end must be no later than the data of {name} ({format_time(info.end)}), was "
            f"{format_time(span.end)}; end there or import newer bars"
        )


def _not_stored(name: str, stored: Mapping[str, SeriesLike], interval: str) -> str:
    """Say what there is instead of a symbol."""
    held: dict[str, list[str]] = {}
    for series in stored:
        instrument_id, length = parse_bar_type(series)
        held.setdefault(instrument_id, []).append(length)
    if name in held:
        return (
            f"interval of {name} must be one that is in the catalog "
            f"({', '.join(sorted(held[name]))}), was {interval}; import it with `levibot data "
            "import` or `levibot data fetch`"
        )
    there = ", ".join(sorted(held)) or "nothing yet"
    near = difflib.get_close_matches(name, held, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? Else import it" if near else "import it"
    return (
        f"instrument must be in the catalog ({there}), was {name}; {hint} with `levibot data "
        "import` or `levibot data fetch`"
    )


def _load_funding(catalog: PanelSource, name: str, start: int, end: int) -> SeriesArrays:
    try:
        return catalog.funding(name, start, end)
    except DataError as error:
        raise DataError(
            f"funding of {name} must be in the catalog from {format_time(start)} to "
            f"{format_time(end)}, was missing ({error}); {_FUNDING_ADVICE}"
        ) from error


def _check_funding_span(series: SeriesArrays, span: Span) -> None:
    """Refuse funding that leaves a part of the span without a rate: it is never taken as zero."""
    first, last = span.first_needed, span.end
    inside = series.between(first - 1, last).ts_init
    edges = np.concatenate([[first], inside, [last]])
    holes = np.flatnonzero(np.diff(edges) > MAX_FUNDING_GAP_NS)
    if len(holes):
        parts = ", ".join(
            f"{format_time(int(edges[hole]))} to {format_time(int(edges[hole + 1]))}"
            for hole in holes[:3]
        )
        more = f" and {len(holes) - 3} more" if len(holes) > 3 else ""
        raise DataError(
            f"funding of {series.name} must have a settlement every "
            f"{MAX_FUNDING_GAP_NS // NS_PER_HOUR} hours at most, had none from {parts}{more}; "
            f"{_FUNDING_ADVICE}"
        )


_FUNDING_ADVICE = (
    "import it with `levibot data import` or `levibot data fetch`, choose a span that has it, or "
    "set features.funding: false and execution.funding: none to go without"
)
