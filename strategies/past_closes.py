"""What a strategy that begins anew is shown of the time before: the closes, for its windows.

Groups found from correlation, joint Kelly sizes and rebalancing look back over returns. A strategy
that began with empty windows would size and limit by too few of them for hours or days, while its
features have their history from the first bar on. It decides nothing on what it is shown here.
"""

from __future__ import annotations

from collections.abc import Mapping

from strategies.fusion import FusionStrategy


class PastCloses:
    """Fills the windows of a strategy that has no earlier process to go on from.

    Parameters
    ----------
    strategy : FusionStrategy
        Whose windows.
    """

    def __init__(self, strategy: FusionStrategy) -> None:
        self._strategy = strategy
        self._ts: int | None = None

    def show(self, ts: int, closes: Mapping[str, float]) -> None:
        """Take the closes of one bar, quote units by instrument.

        Parameters
        ----------
        ts : int
            Close of the bar, UTC nanoseconds: before the first that the strategy is handed; each
            time once, in order.
        closes : mapping of str to float
            Those of instruments that are not traded are left out.
        """
        guard, portfolio = self._strategy.guard, self._strategy.portfolio_desk
        if self._ts is None:
            # A process that died at its start may have left some of the same closes.
            for one in (guard, portfolio):
                if one is not None:
                    one.clear()
        self._ts = ts
        traded = self._strategy.desk.states
        found = {name: price for name, price in closes.items() if name in traded}
        if guard is not None:
            guard.show(ts, found)
        if portfolio is not None and len(found) == len(traded):
            # It looks at complete closes only.
            portfolio.show(found)
