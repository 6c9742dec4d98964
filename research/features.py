"""The feature table, and the two drivers of its kernels.

`compute_features` runs `kernels.step` over recorded bars in a compiled loop, and then the step of
each group of features that is switched on; `FeatureStream` calls the same functions once per
timestamp, compiled or as plain Python. All three give the same bits.

When a row is usable: at its `ts_init`, which is the close of its bar, once the bars of the other
instruments for that time are in. Bars and settlements later than that do not enter it; a funding
rate known at exactly that time does.

Where a stream starts does not matter: given `WARMUP_BARS` of history, its rows equal those of a
run over all history (see `research.kernels`, "Memory").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, Ohlcv
from catalog.errors import DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research import kernel_tools, kernels
from research.feature_config import FeatureConfig
from research.feature_layout import Layout, feature_table, feature_table_hash, panel_needs
from research.feature_stream import FeatureStream
from research.group_drivers import GroupBatch, Recorded
from research.inputs import check_bars, panel_records
from research.kernel_cache import compiled_kernels
from research.panel import Panel

__all__ = [
    "WARMUP_BARS",
    "FeatureConfig",
    "FeatureMatrix",
    "FeatureStream",
    "compute_features",
    "feature_table",
    "feature_table_hash",
    "panel_needs",
]

WARMUP_BARS = kernels.WARMUP_SLOTS + kernel_tools.MAX_CARRIED
"""History after which a stream equals a run over everything, whatever bars are missing."""

_ROWS_PER_REPORT = 50_000  # often enough for a progress bar, seldom enough to cost nothing
_ROW_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Features of a panel; rows are instrument-major and sorted by time within.

    Parameters
    ----------
    names : tuple of str
        Feature names, (n_features,).
    instruments : tuple of str
        Instrument ids by code.
    ts_init : (n_rows,) int64
        When each row is known: its bar's close, UTC nanoseconds.
    instrument : (n_rows,) int64
        Instrument codes.
    values : (n_rows, n_features) float64
        NaN where a feature is not defined (nothing known yet, no variation).
    valid : (n_rows,) bool
        False during warm-up: such a row is NaN throughout.
    """

    names: tuple[str, ...]
    instruments: tuple[str, ...]
    ts_init: Int64Array
    instrument: Int64Array
    values: Float64Array
    valid: NDArray[np.bool_]


def compute_features(
    panel: Panel, config: FeatureConfig, *, progress: Progress = no_progress
) -> FeatureMatrix:
    """Compute the features of every bar of a panel.

    Parameters
    ----------
    panel : Panel
        Bars of all instruments, and their funding if `config` asks for it.
    config : FeatureConfig
        Which features.
    progress : Progress
        Told the timestamps done, under the stage ``features``.

    Raises
    ------
    ConfigError
        If `config` names an instrument that the panel does not hold.
    DataError
        If funding is asked for and absent, or a bar or a rate is not sound.
    """
    instruments = panel.instruments()
    layout = Layout.of(instruments, panel.interval_ns, config)
    listened = {name for group in layout.groups for name, _ in group.inputs}
    records = panel_records(panel, listened)
    recorded = _recorded(panel, len(layout.names))
    base = _BaseBatch(layout, recorded, _funding_columns(panel, config))
    groups = [GroupBatch(group, recorded, records) for group in layout.groups]
    # What one kernel has written is still in the processor's cache when the next one comes.
    limit = max(_ROW_BYTES // (8 * len(layout.names) * len(instruments)), 16)
    done, newly_done, told = 0, -1, 0
    while newly_done:
        newly_done = base.advance(limit)
        for group in groups:
            group.advance(limit, base.last_ts())
        done += newly_done
        if done - told > _ROWS_PER_REPORT or not newly_done:
            progress("features", done, len(recorded.ts_init))
            told = done
    codes = np.repeat(np.arange(len(instruments), dtype=np.int64), recorded.counts)
    return FeatureMatrix(
        layout.names, instruments, recorded.ts_init, codes, recorded.values, recorded.valid
    )


def _recorded(panel: Panel, n_features: int) -> Recorded:
    """Lay the bars of a panel out, and room for their features."""
    for bars in panel.bars:
        check_bars(bars)
    ts_init = np.concatenate([bars.ts_init for bars in panel.bars])
    columns = np.empty((len(ts_init), 5))
    for column, name in enumerate(Ohlcv._fields):
        np.concatenate([getattr(bars, name) for bars in panel.bars], out=columns[:, column])
    counts = np.array([len(bars) for bars in panel.bars], dtype=np.int64)
    values, valid = np.empty((len(ts_init), n_features)), np.zeros(len(ts_init), dtype=np.bool_)
    return Recorded(panel.interval_ns, ts_init, columns, counts, values, valid)


class _BaseBatch:
    """The base kernel over a panel, a stretch of timestamps at a time."""

    def __init__(
        self,
        layout: Layout,
        recorded: Recorded,
        funding: tuple[Int64Array, Float64Array, Int64Array],
    ) -> None:
        funding_ts, funding_rate, funding_counts = funding
        self._run = compiled_kernels().run
        self._ts_init = recorded.ts_init
        self._cursors = np.stack([*_spans(recorded.counts), *_spans(funding_counts)])
        self._first = self._cursors[0].copy()
        self._arguments = (
            recorded.interval_ns,
            (recorded.ts_init, recorded.bars),
            (funding_ts, funding_rate),
            self._cursors,
            layout.arrays(),
            layout.settings,
            layout.ratios,
            layout.scratch_arrays(),
            recorded.values,
            recorded.valid,
        )

    def advance(self, limit: int) -> int:
        """Write the base columns of the next `limit` timestamps; return how many rows."""
        return self._run(limit, *self._arguments)

    def last_ts(self) -> int:
        """Return the last timestamp whose rows are written, `kernel_tools.NEVER` if none is."""
        begun = self._cursors[0][self._cursors[0] > self._first]
        return int(self._ts_init[begun - 1].max(initial=kernel_tools.NEVER))


def _spans(counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return first rows and ends of blocks that lie one after the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    return ends - counts, ends


def _funding_columns(
    panel: Panel, config: FeatureConfig
) -> tuple[Int64Array, Float64Array, Int64Array]:
    """Return times, rates and counts of settlements, instrument after instrument."""
    instruments = panel.instruments()
    if not config.funding:
        return np.empty(0, np.int64), np.empty(0), np.zeros(len(instruments), np.int64)
    missing = [name for name in instruments if name not in panel.funding]
    if missing:
        raise DataError(
            f"features.funding must have funding for every instrument, there is none for "
            f"{', '.join(missing)}; load the panel with funding or set features.funding to false"
        )
    series = [panel.funding[name] for name in instruments]
    for one in series:
        bad = np.flatnonzero(~np.isfinite(one.value))
        if len(bad):
            raise DataError(
                f"funding rate of {one.name} at {format_time(int(one.ts_init[bad[0]]))} must be "
                f"finite, was {one.value[bad[0]]}"
            )
    counts = np.array([len(one) for one in series], dtype=np.int64)
    times = np.concatenate([one.ts_init for one in series]).astype(np.int64)
    return times, np.concatenate([one.value for one in series]).astype(np.float64), counts
