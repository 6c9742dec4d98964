"""The end of a run: whether everything that went in came out.

The engine fails silently in several places (an exception in a callback, an order for ever on its
way, a settlement that is not booked, data that is not iterated) and each leaves a plausible result
that is wrong. So every run ends here, and a run whose books do not balance fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.errors import RunFailedError
from strategies.stops import NO_AMBIGUOUS_BARS, AmbiguousBars

CASH_TOLERANCE = 1e-6
"""Largest difference between our ledger and the engine's account, USDT."""
_CASH_PRECISION = 1e-12
"""Of the cash: a number of many digits holds no millionths."""
LISTED = 20
"""Names that `Reconciliation.to_json` lists of one kind at most; the counts are complete."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was counted at the end of a run.

    Parameters
    ----------
    records : int
        Market records handed to the engine.
    iterations : int
        Records that the engine says it processed.
    bars, actor_bars, strategy_bars : int
        Bars handed over; bars that reached the actor; bars that reached the strategy.
    late_bars : int
        Bars that came after their time was closed and were not used.
    predictions_expected : int or None
        Predictions that should have been made; None where nobody knows beforehand.
    predictions_published, predictions_received, decisions : int
        Sent by the actor; received by the strategy; decided on.
    orders : int
        Orders decided on, whether or not they still met a price.
    fills : int
        Fills booked.
    unfinished : tuple of str
        Orders neither closed nor explained by the end of the data.
    disagreeing : tuple of str
        Orders whose status or filled quantity differs between our books and the engine's.
    misfilled : tuple of str
        Market and limit orders that did not fill as they must (`FillCheck.market_faults`).
    unprotected : tuple of str
        Positions whose stop or target did not do what it should (`FillCheck.stop_faults`).
    mistaken : tuple of str
        Liquidations that were not called for, and those that were but did not happen
        (`strategies.liquidation_check`).
    refused : tuple of str
        Orders that the exchange had to refuse (`FillCheck.refusals`), with its words: part of
        the game.
    denied : tuple of str
        All other orders denied or rejected, with the reason: the run fails.
    open_at_end : tuple of str
        Orders alive when the data ended: stops of open positions and orders of the last bar.
    settlements_due, settlements_booked : int
        Funding settlements while a position was held; those in our ledger.
    ledger_cash, engine_cash : float
        USDT, by our ledger and by the engine's account.
    ledger_positions, engine_positions : mapping of instrument id to float
        Signed quantities held at the end.
    errors : tuple of str
        Exceptions in callbacks.
    ambiguous : AmbiguousBars
        Exits in bars that held both stop and target: not a fault, but worth knowing.
    """

    records: int
    iterations: int
    bars: int
    actor_bars: int
    strategy_bars: int
    late_bars: int
    predictions_expected: int | None
    predictions_published: int
    predictions_received: int
    decisions: int
    orders: int
    fills: int
    unfinished: tuple[str, ...]
    disagreeing: tuple[str, ...]
    misfilled: tuple[str, ...]
    unprotected: tuple[str, ...]
    mistaken: tuple[str, ...]
    refused: tuple[str, ...]
    denied: tuple[str, ...]
    open_at_end: tuple[str, ...]
    settlements_due: int
    settlements_booked: int
    ledger_cash: float
    engine_cash: float
    ledger_positions: Mapping[str, float]
    engine_positions: Mapping[str, float]
    errors: tuple[str, ...]
    ambiguous: AmbiguousBars = NO_AMBIGUOUS_BARS

    def faults(self) -> list[str]:
        """Return what does not balance, in words; empty when everything does."""
        found = [f"a callback raised {text}" for text in self.errors[:_SHOWN]]
        found += _unequal("records handed over", self.records, "iterated", self.iterations)
        found += _unequal("bars", self.bars, "bars at the predictor", self.actor_bars)
        found += _unequal("bars", self.bars, "bars at the strategy", self.strategy_bars)
        found += _unequal("late bars", self.late_bars, "allowed in a replay", 0)
        found += self._prediction_faults()
        found += _listed("orders neither closed nor explained", self.unfinished)
        found += _listed("orders on which ledger and engine disagree", self.disagreeing)
        found += _listed("orders denied or rejected", self.denied)
        found += _listed("market or limit orders not filled as they must", self.misfilled)
        found += _listed("positions not protected by their stop", self.unprotected)
        found += _listed("liquidations mistaken or missed", self.mistaken)
        due, booked = self.settlements_due, self.settlements_booked
        found += _unequal("settlements due", due, "booked", booked)
        allowed = max(CASH_TOLERANCE, _CASH_PRECISION * abs(self.engine_cash))
        # Written so that NaN is a fault.
        if not abs(self.ledger_cash - self.engine_cash) <= allowed:
            found.append(
                f"cash in our ledger {self.ledger_cash!r} USDT, in the engine's account "
                f"{self.engine_cash!r}"
            )
        if dict(self.ledger_positions) != dict(self.engine_positions):
            found.append(
                f"positions in our ledger {dict(self.ledger_positions)}, in the engine "
                f"{dict(self.engine_positions)}"
            )
        return found

    def check(self) -> None:
        """Fail the run if anything does not balance.

        Raises
        ------
        RunFailedError
            Naming each fault.
        """
        found = self.faults()
        if found:
            raise RunFailedError(
                "the run's books must balance, but: " + "; ".join(found) + ". Its results must "
                "not be used"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the counts for programs, and whether they balance; long lists are cut short."""
        return {
            "balanced": not self.faults(),
            "records": self.records,
            "bars": self.bars,
            "predictions": self.predictions_published,
            "decisions": self.decisions,
            "orders": self.orders,
            "fills": self.fills,
            "settlements": self.settlements_booked,
            "refused": len(self.refused),
            "refused_first": list(self.refused[:LISTED]),
            "open_at_end": len(self.open_at_end),
            "open_at_end_first": list(self.open_at_end[:LISTED]),
            "positions_at_end": dict(self.ledger_positions),
            "cash": self.ledger_cash,
        }

    def _prediction_faults(self) -> list[str]:
        found = []
        published, received = self.predictions_published, self.predictions_received
        if self.predictions_expected is not None:
            expected = self.predictions_expected
            found += _unequal("predictions expected", expected, "published", published)
        found += _unequal("predictions published", published, "received", received)
        found += _unequal("predictions received", received, "decided on", self.decisions)
        return found


def _unequal(left: str, left_count: int, right: str, right_count: int) -> list[str]:
    if left_count == right_count:
        return []
    return [f"{left} {left_count:,}, {right} {right_count:,}"]


def _listed(what: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return [f"{len(names):,} {what}: {', '.join(names[:_SHOWN])}{more}"]
