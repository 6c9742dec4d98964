"""The latest log returns of several instruments, one row a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.snapshots import WindowSnapshot, packed_rows, unpacked_rows


class ReturnsWindow:
    """Keep the returns of the last bars.

    What it holds depends on the closes of the window only, so that a stream which began earlier or
    later holds the same once the window is full.

    Parameters
    ----------
    names : sequence of str
        Instruments.
    bars : int
        Length of the window.
    """

    def __init__(self, names: Sequence[str], bars: int) -> None:
        self.names = tuple(names)
        self._returns = np.full((bars, len(self.names)), np.nan)
        self._at = 0
        self._last: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._returns)

    def update(self, closes: Mapping[str, float]) -> None:
        """Take the closes of one bar; each time once, in order.

        Parameters
        ----------
        closes : mapping of str to float
            Of the instruments that have this bar. A return over missing bars is left out: it
            would be one of another length.
        """
        row = [_log_return(self._last.get(name), closes.get(name)) for name in self.names]
        self._last = dict(closes)
        self._returns[self._at] = row
        self._at = (self._at + 1) % len(self._returns)

    def clear(self) -> None:
        """Forget everything."""
        self._returns[:] = np.nan
        self._at, self._last = 0, {}

    def returns(self) -> NDArray[np.float64]:
        """Return the window, (n_bars, n_instruments), oldest first; NaN where a bar is missing.

        In the order of time, so that sums do not depend on where the window begins inside.
        """
        return np.roll(self._returns, -self._at, axis=0)

    def resized(self, bars: int) -> ReturnsWindow:
        """Return a window of another length with as much of the past as both hold."""
        other = ReturnsWindow(self.names, bars)
        kept = self.returns()[-bars:]
        other._returns[-len(kept) :] = kept
        other._last = dict(self._last)
        return other

    def snapshot(self) -> WindowSnapshot:
        """Return what the window holds."""
        rows = packed_rows(self.returns())
        return WindowSnapshot(self.names, len(self), rows, dict(self._last))

    def restore(self, snapshot: WindowSnapshot) -> None:
        """Take over as much of an earlier process's window as both hold.

        Instruments that were not in it have no past.
        """
        rows = unpacked_rows(snapshot.rows, snapshot.names)[-len(self) :]
        self._returns[:] = np.nan
        for column, name in enumerate(self.names):
            if name in snapshot.names:
                self._returns[-len(rows) :, column] = rows[:, snapshot.names.index(name)]
        self._at = 0
        self._last = {name: one for name, one in snapshot.last.items() if name in self.names}

    def complete(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the rows that are known for all of `names`, (n_known_bars, n_names)."""
        columns = [self.names.index(name) for name in names]
        rows = self.returns()[:, columns]
        found: NDArray[np.float64] = rows[np.isfinite(rows).all(axis=1)]
        return found


def _log_return(before: float | None, now: float | None) -> float:
    if before is None or now is None or not 0.0 < before < math.inf or not 0.0 < now < math.inf:
        return math.nan
    return math.log(now / before)
