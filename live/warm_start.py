"""Bring a predictor to the state it would have had, had it always been running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from catalog.arrays import BarArrays, Ohlcv, SeriesArrays
from catalog.progress import Progress, no_progress
from research.predictor import Predictor


def feed_history(
    predictor: Predictor,
    bars: Sequence[BarArrays],
    funding: Mapping[str, SeriesArrays],
    until: int,
    *,
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
        Rates by instrument id; at equal stamps funding comes before bars, as everywhere.
    until : int
        UTC nanoseconds, inclusive.
    """
    start = until - predictor.spec.warmup_bars * predictor.spec.interval_ns
    past = [one.between(start, until) for one in bars]
    rows = {one.instrument_id: _rows(one) for one in past}
    settled = sorted(
        (int(ts), name, float(rate))
        for name, series in funding.items()
        for ts, rate in zip(
            series.between(start, until).ts_init, series.between(start, until).value, strict=True
        )
    )
    times = np.unique(np.concatenate([one.ts_init for one in past])).tolist()
    position = 0
    for done, ts in enumerate(times):
        while position < len(settled) and settled[position][0] <= ts:
            known, name, rate = settled[position]
            predictor.update_funding(name, rate, known)
            position += 1
        predictor.update(ts, {name: found[ts] for name, found in rows.items() if ts in found})
        if done % 512 == 0:
            progress("warm start", done, len(times))
    for known, name, rate in settled[position:]:
        predictor.update_funding(name, rate, known)
    progress("warm start", len(times), len(times))


def _rows(bars: BarArrays) -> dict[int, Ohlcv]:
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return dict(
        zip(
            bars.ts_init.tolist(),
            map(Ohlcv, *(column.tolist() for column in columns)),
            strict=True,
        )
    )
