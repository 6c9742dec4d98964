"""Which instruments move together: groups from the correlation of their returns.

Two instruments whose correlation reaches the limit are linked, and a group is what links connect
(connected components; single linkage). Complete linkage would make tighter groups, but it may put
two instruments that do move together into different ones, and which two depends on the order of
merging where correlations tie: a limit on a group would then not limit them. Connected components
keep every pair that reaches the limit together, whatever the order. The price: a chain of pairs
becomes one group, and a limit may bind earlier than it had to.

What cannot be computed (too few shared bars, a price that did not move) counts as correlated.
Strongly negative correlation is no link: two such positions of one side offset each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from catalog.timestamps import NS_PER_DAY
from strategies.returns_window import ReturnsWindow
from strategies.risk_policy import FoundGroups
from strategies.snapshots import GroupsSnapshot


def correlated_groups(
    returns: NDArray[np.float64], names: Sequence[str], limit: float, min_bars: int = 3
) -> tuple[frozenset[str], ...]:
    """Return the groups of at least two instruments, in the order of their first members.

    Parameters
    ----------
    returns : array of shape (n_bars, n_instruments)
        One-bar log returns, the newest included: usable from the close of the last bar on. NaN
        where a bar is missing.
    names : sequence of str
        Of the instruments, one per column.
    limit : float
        Smallest correlation of two that belong together, in (0, 1].
    min_bars : int
        Bars that two instruments must share for a correlation to be known.

    Raises
    ------
    ValueError
        If there is not one name for each column.
    """
    if returns.ndim != 2 or returns.shape[1] != len(names):
        raise ValueError(
            f"returns must have the shape (n_bars, {len(names)}), was {returns.shape}: "
            f"one column for each of {', '.join(names)}"
        )
    known = correlations(returns, min_bars)
    linked = ~(known < limit)
    groups: list[frozenset[str]] = []
    left = set(range(len(names)))
    for start in range(len(names)):
        if start not in left:
            continue
        members, edge = {start}, [start]
        while edge:
            found = {int(one) for one in np.flatnonzero(linked[edge.pop()])} - members
            members |= found
            edge += found
        left -= members
        if len(members) > 1:
            groups.append(frozenset(names[member] for member in members))
    return tuple(groups)


def correlations(returns: NDArray[np.float64], min_bars: int) -> NDArray[np.float64]:
    """Return Pearson's correlations over the bars that each two columns share; NaN unknown.

    Parameters
    ----------
    returns : array of shape (n_bars, n_instruments)
        NaN where a bar is missing.
    min_bars : int
        With fewer shared bars the correlation is unknown.

    Returns
    -------
    array of shape (n_instruments, n_instruments)
        Symmetric.
    """
    there = np.isfinite(returns)
    values, mask = np.where(there, returns, 0.0), there.astype(np.float64)
    count = _products(mask, mask)
    # Sums of column i over the bars that i and j share: (n_instruments, n_instruments).
    total, square = _products(values, mask), _products(values * values, mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = _products(values, values) / count - (total / count) * (total.T / count)
        variance = square / count - (total / count) ** 2
        # Returns are about 1e-3: below this the price stood still, and the rest is rounding.
        variance = np.where(variance > 1e-18, variance, np.nan)
        found = cross / np.sqrt(variance * variance.T)
    return np.where(count >= min_bars, np.clip(found, -1.0, 1.0), np.nan)


def _products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``left.T @ right``, summed in the order of time by one thread.

    A matrix product goes to BLAS, whose threads took 300 ms instead of 1 where others used the
    cores, and whose last bits depend on their number.
    """
    product: NDArray[np.float64] = np.einsum("bi,bj->ij", left, right, optimize=False)
    return product


class GroupFinder:
    """Keep a window of returns, and find the groups anew at the first bar of each UTC day.

    The answer depends on the closes of the window only, so that a stream which began earlier or
    later finds the same groups once its window is full.

    Parameters
    ----------
    names : sequence of str
        Instruments.
    config : FoundGroups
        Window and limit.
    """

    def __init__(self, names: Sequence[str], config: FoundGroups) -> None:
        self._names = tuple(names)
        self._config = config
        self._window = ReturnsWindow(self._names, config.window_bars)
        self._day: int | None = None

    def changed(self, config: FoundGroups) -> GroupFinder:
        """Return a finder with other settings and this one's past; it finds at its next bar."""
        other = GroupFinder(self._names, config)
        other._window = self._window.resized(config.window_bars)
        return other

    def clear(self) -> None:
        """Forget everything."""
        self._window.clear()
        self._day = None

    def snapshot(self, found: Iterable[frozenset[str]]) -> GroupsSnapshot:
        """Return the window, and the groups that were found with it."""
        groups = tuple(tuple(sorted(one)) for one in found)
        return GroupsSnapshot(self._window.snapshot(), self._day, groups)

    def restore(self, snapshot: GroupsSnapshot) -> None:
        """Go on where an earlier process ended."""
        self._window.restore(snapshot.window)
        self._day = snapshot.day

    def update(self, ts: int, closes: Mapping[str, float]) -> tuple[frozenset[str], ...] | None:
        """Take the closes of one bar; return the groups where they were found anew, else None.

        Parameters
        ----------
        ts : int
            Close of the bar, UTC nanoseconds; each time once, in order.
        closes : mapping of str to float
            Of the instruments that have this bar. A return over missing bars is left out: it
            would be one of another length.
        """
        self._window.update(closes)
        day = ts // NS_PER_DAY
        if day == self._day:
            return None
        self._day = day
        config = self._config
        returns = self._window.returns()
        return correlated_groups(returns, self._names, config.limit, config.min_bars)
