"""The feature table, and the two drivers of its one kernel.

`compute_features` runs `kernels.step` over recorded bars in a compiled loop; `FeatureStream` calls
the same function once per timestamp, compiled or as plain Python. All three give the same bits.

When a row is usable: at its `ts_init`, which is the close of its bar, once the bars of the other
instruments for that time are in. Bars and settlements later than that do not enter it; a funding
rate known at exactly that time does.

Where a stream starts does not matter: given `WARMUP_BARS` of history, its rows equal those of a
run over all history (see `research.kernels`, "Memory").
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, Ohlcv
from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_MINUTE, format_time, interval_name
from research import kernels
from research.feature_config import FeatureConfig
from research.feature_table import (
    BASE_FEATURES,
    CODE_FEATURE,
    FUNDING_FEATURES,
    LEAD_FEATURES,
    PEER_FEATURES,
    Feature,
    ratio_feature,
)
from research.group_drivers import GroupLayout, GroupStream, Recorded, run_group
from research.groups.registry import (
    first_columns,
    flow_input,
    funding_input,
    groups_of,
    minute_input,
)
from research.inputs import (
    check_bar,
    check_bars,
    check_flow,
    check_value,
    not_one_of,
    panel_records,
)
from research.kernel_cache import compiled_kernels, source_hash
from research.panel import Panel
from research.panel_series import PanelNeeds

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

WARMUP_BARS = kernels.WARMUP_SLOTS + kernels.MAX_CARRIED
"""History after which a stream equals a run over everything, whatever bars are missing."""

_TIMESTAMPS_PER_CALL = 16_384  # often enough for a progress bar, seldom enough to cost nothing


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


def feature_table(config: FeatureConfig) -> tuple[Feature, ...]:
    """Return the features of a run in the order of their columns."""
    table = BASE_FEATURES
    if config.funding:
        table += FUNDING_FEATURES
    if config.lead is not None:
        table += LEAD_FEATURES
    if config.peers:
        table += PEER_FEATURES
    table += tuple(ratio_feature(first, second) for first, second in config.ratios)
    for group in groups_of(config):
        table += group.features()
    if config.instrument_code:
        table += (CODE_FEATURE,)
    return table


def panel_needs(config: FeatureConfig) -> PanelNeeds:
    """Return what a panel must hold for these features beside bars: for `load_panel`."""
    from research.groups import slow

    fear_greed = () if config.fear_greed is None else (config.fear_greed,)
    return PanelNeeds(
        funding=config.funding,
        flow=config.flow,
        minutes=config.path,
        onchain=() if config.onchain is None else ((config.onchain, slow.METRICS),),
        indices=(*config.dvol, *fear_greed),
        news=config.news,
        history_ns=slow.HISTORY_NS,
        funding_history_ns=slow.FUNDING_HISTORY_NS if config.funding_terms else 0,
    )


def feature_table_hash(config: FeatureConfig) -> str:
    """Return the SHA-256 of what decides a feature's value: settings, table, kernels' sources."""
    table = [asdict(feature) for feature in feature_table(config)]
    groups = {group.name: source_hash(*group.sources) for group in groups_of(config)}
    parts = [config.model_dump(mode="json"), table, source_hash(kernels), groups]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
    layout = _Layout.of(instruments, panel.interval_ns, config)
    listened = {name for group in layout.groups for name, _ in group.inputs}
    records = panel_records(panel, listened)
    recorded = _recorded(panel, len(layout.names))
    rows = len(recorded.ts_init)
    total = rows * (1 + len(layout.groups))
    _run_base(layout, recorded, _funding_columns(panel, config), progress, total)
    for number, group in enumerate(layout.groups, start=1):
        before = number * rows

        def told(done: int, before: int = before) -> None:
            progress("features", before + done, total)

        run_group(group, recorded, records, _TIMESTAMPS_PER_CALL, told)
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


def _run_base(
    layout: _Layout,
    recorded: Recorded,
    funding: tuple[Int64Array, Float64Array, Int64Array],
    progress: Progress,
    total: int,
) -> None:
    """Write the base table's columns and which rows are valid."""
    funding_ts, funding_rate, funding_counts = funding
    arguments = (
        recorded.interval_ns,
        (recorded.ts_init, recorded.bars),
        (funding_ts, funding_rate),
        np.stack([*_spans(recorded.counts), *_spans(funding_counts)]),
        layout.arrays(),
        layout.settings,
        layout.ratios,
        layout.scratch_arrays(),
        recorded.values,
        recorded.valid,
    )
    run = compiled_kernels().run
    done, newly_done = 0, -1
    while newly_done:
        newly_done = run(_TIMESTAMPS_PER_CALL, *arguments)
        done += newly_done
        progress("features", done, total)


class FeatureStream:
    """Features bar by bar: the rows of `compute_features` as they become known.

    Parameters
    ----------
    instruments : sequence of str
        Instrument ids in the profile's order.
    interval_ns : int
        Length of a bar in nanoseconds.
    config : FeatureConfig
        Which features.
    compiled : bool
        False runs the kernel as plain Python, which needs no numba (100 MB less memory) and
        gives the same bits.
    """

    def __init__(
        self,
        instruments: Sequence[str],
        interval_ns: int,
        config: FeatureConfig,
        *,
        compiled: bool = True,
    ) -> None:
        self.instruments = tuple(instruments)
        self.interval_ns = interval_ns
        layout = _Layout.of(self.instruments, interval_ns, config)
        self.names = layout.names
        count = len(self.instruments)
        state = layout.arrays()
        present, bars, shared = layout.scratch_arrays()
        arrays: tuple[Any, ...] = (
            *state,
            layout.settings,
            layout.ratios,
            shared,
            np.empty((count, len(layout.names))),
            np.arange(count),
            np.zeros(count, dtype=np.bool_),
        )
        self._step: Any = kernels.step
        self._present: Any = present
        self._bars: Any = bars
        if compiled:
            self._step = compiled_kernels().step
        else:
            # Python reads and writes lists several times faster than arrays.
            arrays = tuple(array.tolist() for array in arrays)
            self._present, self._bars = present.tolist(), bars.tolist()
        self._arguments = arrays
        self._floats, self._ints = arrays[0], arrays[1]
        self._rows, self._valid = arrays[5], arrays[7]
        self._slot = kernels.NEVER
        self._pending: list[tuple[int, int, float]] = []
        self._groups = tuple(GroupStream(group, interval_ns, compiled) for group in layout.groups)
        self._listened = frozenset(name for group in self._groups for name in group.listens_to)

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        """Take in a settled funding rate.

        It counts for bars at or after its `ts_init`. A rate that was known before one already
        taken in changes nothing, so a feed may repeat itself.

        Raises
        ------
        DataError
            If the instrument is not one of the stream's or the rate is not a finite number.
        """
        if instrument_id not in self.instruments:
            raise DataError(not_one_of("funding", instrument_id, self.instruments))
        if not math.isfinite(rate):
            raise DataError(
                f"funding rate of {instrument_id} at {format_time(ts_init)} must be finite, "
                f"was {rate}"
            )
        self._pending.append((ts_init, self.instruments.index(instrument_id), rate))
        self._put(funding_input(instrument_id), ts_init, (rate,))

    def update_series(self, name: str, value: float, ts_init: int, extra: float = math.nan) -> None:
        """Take in a record of a slow series, such as ``index.dvol.btc``.

        It counts for bars at or after its `ts_init`. One that was known before the last of its
        series changes nothing, so a feed may repeat itself.

        Parameters
        ----------
        name : str
            As in `Panel.series`. Series that no feature looks at are refused.
        value : float
            Its value; NaN for news without a score, and for nothing else.
        ts_init : int
            When it became known, UTC nanoseconds.
        extra : float
            For news: the headline's novelty (`research.novelty`).

        Raises
        ------
        DataError
            If no feature looks at the series, or the value is not a finite number.
        """
        if name not in self._listened:
            wanted = ", ".join(sorted(self._listened)) or "none"
            raise DataError(f"series must be one that features look at ({wanted}), was {name}")
        check_value(name, ts_init, value)
        self._put(name, ts_init, (value, extra))

    def update_flow(self, instrument_id: str, values: Sequence[float], ts_init: int) -> None:
        """Take in the order flow of the bar that closed at `ts_init`, before that bar.

        Parameters
        ----------
        instrument_id : str
            Whose.
        values : (4,) sequence of float
            As in `research.inputs.FLOW_FIELDS`.
        ts_init : int
            Close of the bar, UTC nanoseconds.

        Raises
        ------
        DataError
            If the instrument is not one of the stream's or a number is not sound.
        """
        if instrument_id not in self.instruments:
            raise DataError(not_one_of("order flow", instrument_id, self.instruments))
        check_flow(instrument_id, ts_init, values)
        self._put(flow_input(instrument_id), ts_init, values)

    def update_minute(self, instrument_id: str, ts_init: int, bar: Ohlcv) -> None:
        """Take in a 1-minute bar that closed at `ts_init`, before the bar that it belongs to.

        Raises
        ------
        DataError
            If the instrument is not one of the stream's or the bar is not sound.
        """
        if instrument_id not in self.instruments:
            raise DataError(not_one_of("1-minute bar", instrument_id, self.instruments))
        if ts_init % NS_PER_MINUTE:
            raise DataError(
                f"ts_init of a 1-minute bar of {instrument_id} must be a whole minute, was "
                f"{format_time(ts_init)}"
            )
        check_bar(instrument_id, ts_init, bar)
        self._put(minute_input(instrument_id), ts_init, bar)

    def _put(self, name: str, ts_init: int, values: Sequence[float]) -> None:
        for group in self._groups:
            group.put(name, ts_init, values)

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> dict[str, Float64Array]:
        """Take in the bars that closed at `ts_init`; return a row for each that is warm.

        Parameters
        ----------
        ts_init : int
            Close of the bars, UTC nanoseconds; later than that of the last call.
        bars : Mapping of str to Ohlcv
            By instrument id, all that there are for this time. Those missing count as missing
            for good.

        Returns
        -------
        dict of str to (n_features,) float64
            In the profile's order; instruments without a bar or still warming up are absent.

        Raises
        ------
        DataError
            If the time or a bar is not sound, or an instrument unknown. Nothing was taken in.
        """
        slot, off_grid = divmod(ts_init, self.interval_ns)
        if off_grid or slot <= self._slot:
            raise DataError(self._bad_time(ts_init))
        present, table = self._present, self._bars
        found = 0
        for index, name in enumerate(self.instruments):
            bar = bars.get(name)
            if bar is None:
                present[index] = 0
                continue
            check_bar(name, ts_init, bar)
            table[index] = bar
            present[index] = 1
            found += 1
        if found != len(bars):
            unknown = next(name for name in bars if name not in self.instruments)
            raise DataError(not_one_of("bar", unknown, self.instruments))
        if self._pending:
            self._settle(ts_init)
        self._slot = slot
        self._step(slot, self.interval_ns, present, table, *self._arguments)
        rows, valid = self._rows, self._valid
        for group in self._groups:
            group.advance(slot, present, table, rows, valid)
        return {
            name: np.array(rows[index])
            for index, name in enumerate(self.instruments)
            if present[index] and valid[index]
        }

    def _settle(self, ts_init: int) -> None:
        """Make the funding known by `ts_init` count; keep what is from later."""
        self._pending.sort(key=lambda entry: entry[0])  # stable: of equal stamps the last counts
        while self._pending and self._pending[0][0] <= ts_init:
            known_at, index, rate = self._pending.pop(0)
            if known_at >= self._ints[index][kernels.FUNDING_TS]:
                self._ints[index][kernels.FUNDING_TS] = known_at
                self._floats[index][kernels.FUNDING_RATE] = rate

    def _bad_time(self, ts_init: int) -> str:
        interval = interval_name(self.interval_ns)
        if ts_init % self.interval_ns:
            return (
                f"ts_init must be a multiple of {interval} (the close of the bars), "
                f"was {format_time(ts_init)}"
            )
        return (
            f"ts_init must be later than the last one, {format_time(self._slot * self.interval_ns)}"
            f", was {format_time(ts_init)}; bars that come late are lost to the features"
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the kernel finds and puts things for one configuration."""

    names: tuple[str, ...]
    settings: Int64Array
    ratios: Int64Array
    count: int
    groups: tuple[GroupLayout, ...]

    @classmethod
    def of(cls, instruments: Sequence[str], interval_ns: int, config: FeatureConfig) -> _Layout:
        """Lay out the columns in the order of `feature_table`."""
        for name in (config.lead, *(name for pair in config.ratios for name in pair)):
            if name is not None and name not in instruments:
                raise ConfigError(not_one_of("feature", name, instruments))
        names = tuple(feature.name for feature in feature_table(config))
        settings = np.full(kernels.SETTINGS, kernels.NEVER, dtype=np.int64)
        for place, first in (
            (kernels.FUNDING_AT, FUNDING_FEATURES[0].name),
            (kernels.LEAD_AT, LEAD_FEATURES[0].name),
            (kernels.PEERS_AT, PEER_FEATURES[0].name),
            (kernels.CODE_AT, CODE_FEATURE.name),
        ):
            if first in names:
                settings[place] = names.index(first)
        if config.lead is not None:
            settings[kernels.LEAD] = instruments.index(config.lead)
        settings[kernels.RATIO_COUNT] = len(config.ratios)
        if config.ratios:
            settings[kernels.RATIOS_AT] = names.index(ratio_feature(*config.ratios[0]).name)
        codes = [instruments.index(name) for pair in config.ratios for name in pair]
        uses = groups_of(config)
        groups = tuple(
            GroupLayout.of(use, instruments, interval_ns, first)
            for use, first in zip(uses, first_columns(uses, names), strict=True)
        )
        return cls(names, settings, np.array(codes, dtype=np.int64), len(instruments), groups)

    def arrays(self) -> tuple[Float64Array, Int64Array]:
        """Return the state of instruments about which nothing is known."""
        floats = np.zeros((self.count, kernels.FLOATS))
        return floats, np.full((self.count, kernels.INTS), kernels.NEVER, dtype=np.int64)

    def scratch_arrays(self) -> tuple[Int64Array, Float64Array, Float64Array]:
        """Return room for what the kernel needs within one step."""
        shared = np.zeros(kernels.RATIO_VALUES + len(self.ratios) // 2)
        return np.zeros(self.count, dtype=np.int64), np.zeros((self.count + 1, 5)), shared


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
