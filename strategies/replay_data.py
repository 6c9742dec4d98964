"""What a replay is fed with, and in which order: for the backtest and the live replay alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import ConfigError, DataError
from catalog.instruments import bar_type
from catalog.records import MAX_FUNDING_GAP_NS
from catalog.timestamps import NS_PER_HOUR, format_time, interval_name
from research.predictor import Predictor, PredictorSpec
from strategies.execution import ExecutionConfig
from strategies.market_data import (
    bar_records,
    close_records,
    exact_bars,
    funding_records,
    mark_records,
    open_quotes,
    quote_records,
    range_records,
)
from strategies.policy_config import FusionPolicy
from strategies.settings_check import check_settings
from strategies.slow_data import SlowInputs
from strategies.slow_records import slow_records, subscriptions


@dataclass(frozen=True, slots=True)
class ReplayInputs:
    """What is replayed.

    Parameters
    ----------
    instruments : tuple of Nautilus instruments
        In the profile's order; all of one venue, settled in USDT.
    bars : tuple of BarArrays
        One for each instrument, in the same order.
    funding : mapping of instrument id to SeriesArrays
        Settlement rates (fractions). May begin before the bars.
    predictions_expected : int, optional
        How many predictions must be made, where that is known beforehand.
    slow : SlowInputs
        Slow series, order flow and one-minute bars. A predictor that was warmed up must not be
        told them twice: `SlowInputs.after` is where its warm start ended.
    """

    instruments: tuple[Any, ...]
    bars: tuple[BarArrays, ...]
    funding: Mapping[str, SeriesArrays] = field(default_factory=dict)
    predictions_expected: int | None = None
    slow: SlowInputs = field(default_factory=SlowInputs)

    def __post_init__(self) -> None:
        """Make the numbers exact; `DataError` where that would change them."""
        pairs = zip(self.bars, self.instruments, strict=False)
        exact = tuple(exact_bars(one, instrument) for one, instrument in pairs)
        # A wrong count of instruments is `check_inputs`' affair, which can say more.
        object.__setattr__(self, "bars", exact + self.bars[len(exact) :])

    def for_predictor(self, spec: PredictorSpec) -> ReplayInputs:
        """Return the inputs with only those slow ones that a predictor asks for.

        Raises
        ------
        DataError
            If something that it asks for is not there.
        """
        return replace(self, slow=self.slow.needed_by(spec))

    @property
    def ts_end(self) -> int:
        """Stamp of the last bar, UTC nanoseconds."""
        return max(int(one.ts_init[-1]) for one in self.bars)


def record_groups(inputs: ReplayInputs, execution: ExecutionConfig) -> Iterator[list[Any]]:
    """Yield the engine's records by kind and instrument.

    Sorted by `ts_init`, stably, they are what the engine replays: at equal stamps the order here
    counts: mark price, settlement, slow inputs, bar, quote.
    """
    return RecordSource(inputs, execution).groups(None, None)


class RecordSource:
    """Makes the engine's records of any part of a span: all at once take ten times their columns.

    Parameters
    ----------
    inputs : ReplayInputs
        Columns of the whole span.
    execution : ExecutionConfig
        Latency of the quotes, and whether funding is booked.
    """

    def __init__(self, inputs: ReplayInputs, execution: ExecutionConfig) -> None:
        self._inputs = inputs
        self._booked = execution.funding == "recorded"
        self._funding = settlements(inputs, execution)
        self._quotes = open_quotes(inputs.bars, execution.latency_ns)
        self._interval_ns = inputs.bars[0].interval_ns

    def parts(self, records: int) -> Iterator[tuple[int | None, int | None]]:
        """Yield spans ``(after, until]`` of about so many records that cover everything.

        A part ends just before bars close. Nothing is on its way to the exchange then, because
        what was sent at the previous close has arrived: the engine, which does not wait at the
        end of a part for what is on its way, treats it as it would in one piece.
        """
        times = np.unique(np.concatenate([one.ts_init for one in self._inputs.bars]))
        # A bar and a quote for each instrument, and what else comes along.
        at_a_time = 2 * len(self._inputs.bars) + len(self._inputs.slow) // max(1, len(times))
        step = max(1, records // at_a_time)
        edges = (times[step::step] - 1).tolist()
        yield from zip([None, *edges], [*edges, None], strict=True)

    def groups(
        self, after: int | None, until: int | None, *, ranges: bool = False
    ) -> Iterator[list[Any]]:
        """Yield the records of ``(after, until]`` by kind and instrument, as `record_groups`.

        `ranges` adds what lets the backtest engine see the range of bars with hardly any volume.
        """
        pairs = list(zip(self._inputs.bars, self._inputs.instruments, strict=True))
        funding = {name: one.between(after, until) for name, one in self._funding.items()}
        for bars, instrument in pairs:
            if self._booked:
                yield mark_records(bars, funding[bars.instrument_id], instrument)
        for series in funding.values():
            yield funding_records(series, booked=self._booked)
        yield from slow_records(self._inputs.slow, self._interval_ns, after, self._last(until))
        interval = interval_name(self._interval_ns)
        for bars, instrument in pairs:
            part = bars.between(after, until)
            if ranges:
                yield range_records(part, instrument)
            yield bar_records(part, bar_type(bars.instrument_id, interval), instrument)
            if ranges:
                yield close_records(part, instrument)
        for one, (bars, instrument) in zip(self._quotes, pairs, strict=True):
            yield quote_records(one.between(after, until), bars, instrument)

    def _last(self, until: int | None) -> int:
        """Return the end of a part: nothing that follows the last bar is replayed."""
        end = self._inputs.ts_end
        return end if until is None else min(until, end)


def check_inputs(
    inputs: ReplayInputs, predictor: Predictor, policy: FusionPolicy, execution: ExecutionConfig
) -> None:
    """Refuse what could not be replayed honestly, before an engine is built."""
    names = tuple(str(one.id) for one in inputs.instruments)
    held = tuple(one.instrument_id for one in inputs.bars)
    if not names or names != held or predictor.spec.instruments != names:
        raise ConfigError(
            f"instruments, bars and predictor must name the same instruments in the same order, "
            f"were {names}, {held} and {predictor.spec.instruments}"
        )
    for one in inputs.bars:
        if len(one) == 0:
            raise DataError(
                f"bars of {one.instrument_id} must not be empty: widen the span or import data"
            )
    inputs.slow.needed_by(predictor.spec)
    subscriptions(predictor.spec)
    intervals = {one.interval_ns for one in inputs.bars} | {predictor.spec.interval_ns}
    if len(intervals) != 1:
        raise ConfigError(f"bars and predictor must share one interval, had {sorted(intervals)} ns")
    check_settings(policy, execution, names, intervals.pop())


def settlements(inputs: ReplayInputs, execution: ExecutionConfig) -> dict[str, SeriesArrays]:
    """Return the settlements to replay: those known by the end, for traded instruments.

    Without booking they are still replayed, because a predictor may use them.
    """
    names = [one.instrument_id for one in inputs.bars]
    found = {name: inputs.funding[name] for name in names if name in inputs.funding}
    if execution.funding == "recorded":
        for one in inputs.bars:
            _check_funding(one, found.get(one.instrument_id))
    return {name: series.between(None, inputs.ts_end) for name, series in found.items()}


def _check_funding(bars: BarArrays, series: SeriesArrays | None) -> None:
    if series is None:
        raise DataError(
            f"funding of {bars.instrument_id} must be in the data when execution.funding is "
            "'recorded', was absent: import it, or state execution.funding: none (and "
            "features.funding: false) to go without"
        )
    start = int(bars.ts_init[0]) - bars.interval_ns
    end = int(bars.ts_init[-1])
    inside = series.between(start - 1, end).ts_init
    edges = np.concatenate(([start], inside, [end]))
    gap = int(np.argmax(np.diff(edges)))
    if edges[gap + 1] - edges[gap] > MAX_FUNDING_GAP_NS:
        raise DataError(
            f"funding of {bars.instrument_id} must have a settlement every "
            f"{MAX_FUNDING_GAP_NS // NS_PER_HOUR} hours at most, had none from "
            f"{format_time(int(edges[gap]))} to {format_time(int(edges[gap + 1]))}: import what is "
            f"missing, or state execution.funding: none to go without"
        )
