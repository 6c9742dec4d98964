"""Bring a predictor to the state it would have had, had it always been running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.progress import Progress, no_progress
from research.predictor import Predictor
from strategies.slow_data import SlowInputs, Update

if TYPE_CHECKING:
    from research.panel import Panel


def slow_inputs(panel: Panel, after: int | None) -> SlowInputs:
    """Return a panel's slow inputs for a replay that begins at `after`, UTC nanoseconds.

    The warm start in front of the replay takes the same and feeds what lies before.
    """
    return SlowInputs(panel.series, panel.flow, panel.minutes, after)


def feed_history(
    predictor: Predictor,
    bars: Sequence[BarArrays],
    funding: Mapping[str, SeriesArrays],
    until: int,
    *,
    slow: SlowInputs | None = None,
    progress: Progress = no_progress,
) -> None:
    """Feed a predictor all records known at `until`, in the order in which they became known.

    Parameters
    ----------
    predictor : Predictor
        Fresh; afterwards its next update may be that of the first bar after `until`.
    bars : sequence of BarArrays
        One for each instrument. The last `predictor.spec.warmup_bars` up to `until` are fed: more
        would change nothing, since no feature remembers more.
    funding : mapping of str to SeriesArrays
        Rates by instrument id, all that is there; at equal stamps bars come last, as everywhere.
    until : int
        UTC nanoseconds, inclusive.
    slow : SlowInputs, optional
        Slow series (all that is there: what holds now may have become known long ago), order flow
        and one-minute bars, from before `until`. The replay that follows is given the same with
        ``after=until``, which is not looked at here.

    Raises
    ------
    DataError
        If the predictor asks for a slow input that is not there.
    """
    start = until - predictor.spec.warmup_bars * predictor.spec.interval_ns
    past = [one.between(start, until) for one in bars]
    rows = {one.instrument_id: _rows(one) for one in past}
    beside = replace((slow or SlowInputs()).needed_by(predictor.spec), after=None)
    updates = merge(
        *(_settled(predictor, name, one.between(None, until)) for name, one in funding.items()),
        beside.updates(predictor, start, until),
        key=itemgetter(0),
    )
    due = next(updates, None)
    times = np.unique(np.concatenate([one.ts_init for one in past])).tolist()
    for done, ts in enumerate(times):
        while due is not None and due[0] <= ts:
            due[1](*due[2])
            due = next(updates, None)
        predictor.update(ts, {name: found[ts] for name, found in rows.items() if ts in found})
        if done % 512 == 0:
            progress("warm start", done, len(times))
    while due is not None:
        due[1](*due[2])
        due = next(updates, None)
    progress("warm start", len(times), len(times))


def _settled(predictor: Predictor, name: str, rates: SeriesArrays) -> Iterator[Update]:
    for ts, rate in zip(rates.ts_init.tolist(), rates.value.tolist(), strict=True):
        yield ts, predictor.update_funding, (name, rate, ts)


def _rows(bars: BarArrays) -> dict[int, Ohlcv]:
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return dict(
        zip(
            bars.ts_init.tolist(),
            map(Ohlcv, *(column.tolist() for column in columns)),
            strict=True,
        )
    )
