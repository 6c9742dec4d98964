"""What a run looks at: the bars of its instruments and the funding known beside them.

A `Panel` is plain columns in memory. Everything downstream (features, labels, folds, the
look-ahead audit) is a function of a panel, which is what makes it possible to ask "what would
this have been, had nothing after t happened?".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from catalog.arrays import BarArrays, Int64Array, SeriesArrays
from catalog.errors import DataError
from catalog.timestamps import NS_PER_HOUR, format_time, interval_name, interval_ns

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

    def __post_init__(self) -> None:
        if not self.bars:
            raise DataError("panel must hold at least one instrument, was empty")
        names = self.instruments()
        if len(set(names)) != len(names):
            raise DataError(f"instruments of a panel must be distinct, were {', '.join(names)}")
        for bars in self.bars:
            _check_grid(bars, self.interval_ns)
        for name, series in self.funding.items():
            if name not in names:
                raise DataError(
                    f"funding must belong to an instrument of the panel, was for {name}"
                )
            if np.any(np.diff(series.ts_init) < 0):
                raise DataError(f"funding of {name} must be sorted by ts_init, was not")

    def instruments(self) -> tuple[str, ...]:
        """Return the instrument ids in the order of their codes."""
        return tuple(bars.instrument_id for bars in self.bars)

    def truncated(self, ts: int) -> Panel:
        """Return the panel as it was known at `ts` (UTC nanoseconds, inclusive)."""
        return replace(
            self,
            bars=tuple(bars.between(None, ts) for bars in self.bars),
            funding={name: series.between(None, ts) for name, series in self.funding.items()},
            data_hash=f"{self.data_hash}@{ts}",
        )


def _check_grid(bars: BarArrays, interval: int) -> None:
    """Refuse bars that another interval, a wrong order or a shifted clock would spoil."""
    name = bars.instrument_id
    if bars.interval_ns != interval:
        raise DataError(
            f"bars of {name} must be {interval_name(interval)} long like the panel, "
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
