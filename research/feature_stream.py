"""Features bar by bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catalog.arrays import Float64Array, Ohlcv
from catalog.errors import DataError
from catalog.timestamps import NS_PER_MINUTE, format_time, interval_name
from research import kernel_tools, kernels
from research.feature_config import FeatureConfig
from research.feature_layout import Layout
from research.group_drivers import VALUES, GroupStream
from research.groups.registry import flow_input, funding_input, minute_input
from research.inputs import check_bar, check_flow, check_value, not_one_of
from research.kernel_cache import compiled_kernels

_PADDING = (math.nan,) * VALUES


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
        layout = Layout.of(self.instruments, interval_ns, config)
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
        self._slot = kernel_tools.NEVER
        self._pending: list[tuple[int, int, float]] = []
        self._groups = tuple(GroupStream(group, interval_ns, compiled) for group in layout.groups)
        self._listeners: dict[str, list[tuple[GroupStream, int, int]]] = {}
        for group in self._groups:
            for order, (name, row) in enumerate(group.layout.inputs):
                self._listeners.setdefault(name, []).append((group, order, row))
        # Minutes are fifteen times as many as bars: they take the shortest way.
        self._minutes = {
            name: tuple(self._listeners.get(minute_input(name), ())) for name in self.instruments
        }

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
        if name not in self._listeners:
            wanted = ", ".join(sorted(self._listeners)) or "none"
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
        listeners = self._minutes.get(instrument_id)
        if listeners is None:
            raise DataError(not_one_of("1-minute bar", instrument_id, self.instruments))
        if ts_init % NS_PER_MINUTE:
            raise DataError(
                f"ts_init of a 1-minute bar of {instrument_id} must be a whole minute, was "
                f"{format_time(ts_init)}"
            )
        check_bar(instrument_id, ts_init, bar)
        for group, order, row in listeners:
            group.put(ts_init, order, row, bar)

    def _put(self, name: str, ts_init: int, values: Sequence[float]) -> None:
        listeners = self._listeners.get(name)
        if listeners is not None:
            padded = (*values, *_PADDING[len(values) :])
            for group, order, row in listeners:
                group.put(ts_init, order, row, padded)

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
