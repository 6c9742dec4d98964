"""How the exchange holds an engine's positions: with which margin, at which leverage.

The profile's leverage is the backtest's; at the exchange every symbol has settings of its own,
which its app changes with one touch. Isolated at a high leverage, a position is liquidated long
before a wide stop; at a lower leverage than the profile's, entries are refused. They are the
owner's, for whatever else the owner trades too, so an engine sets none of them: it does not start
while they are wrong, and one that has positions to look after, or finds it while it runs, says so
and opens nothing until they are right.

Crossed, a leverage above the profile's is no harm: all of the account stands behind a position
then, and the exchange's leverage only says how much of it is set aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.accounts import AccountState, Margin
from catalog.errors import ConfigError
from live.engine_parts import Prepared
from strategies.guard_orders import Refused

MARGIN = "margin"


def needed_margin(prepared: Prepared) -> dict[str, float]:
    """Return the leverage that the profile counts with, by instrument that is traded."""
    return dict.fromkeys(prepared.request.traded, prepared.execution.leverage)


def margin_fault(needed: Mapping[str, float], margins: Sequence[Margin]) -> str:
    """Return in words what is wrong with how positions are held; "" where nothing is.

    Parameters
    ----------
    needed : mapping of str to float
        The least leverage, by instrument.
    margins : sequence of Margin
        As the exchange says; of instruments that are not among them nothing is known.
    """
    rows = [one for one in margins if one.instrument_id in needed]
    if any(one.hedged for one in rows):
        return "position mode of the account must be one-way, is hedge: change it at the exchange"
    isolated = sorted(one.instrument_id for one in rows if one.isolated)
    if isolated:
        return (
            f"margin of {', '.join(isolated)} must be crossed, is isolated: a position there is "
            "liquidated before its stop; change the margin mode at the exchange"
        )
    low = sorted(one for one in rows if one.leverage < needed[one.instrument_id])
    if low:
        found = ", ".join(f"{one.leverage:g} of {one.instrument_id}" for one in low)
        wanted = max(needed[one.instrument_id] for one in low)
        return (
            f"leverage at the exchange must be at least the profile's {wanted:g}, is {found}: its "
            "entries would be refused; raise it there, or lower execution.leverage of the profile"
        )
    return ""


def require_margin(prepared: Prepared, state: AccountState) -> None:
    """Refuse to start where positions would be held otherwise than the profile counts with.

    Where something is held already somebody must look after it: that one starts, and opens nothing.

    Raises
    ------
    ConfigError
        Saying what to change.
    """
    needed = needed_margin(prepared)
    fault = margin_fault(needed, state.margins)
    if fault and not any(one.instrument_id in needed for one in state.positions):
        raise ConfigError(fault)


class MarginCheck:
    """Looks at it while an engine runs, in each answer of the account.

    Parameters
    ----------
    needed : mapping of str to float
        As for `margin_fault`.
    teller : Teller
        Told when it goes wrong, and when it is right again.

    Attributes
    ----------
    fault : str
        What is wrong; "" where nothing is.
    """

    def __init__(self, needed: Mapping[str, float], teller: Any) -> None:
        self.fault = ""
        self._needed = needed
        self._teller = teller

    def judge(self, state: AccountState, settled: bool) -> None:
        """Look at what the account says."""
        fault = margin_fault(self._needed, state.margins)
        if fault != self.fault:
            text = f"{fault}; nothing new is opened until then" if fault else "it is right again"
            self._teller.event("margin", text, level="warning" if fault else "info")
        self.fault = fault

    def refused(self) -> Refused | None:
        """Return why nothing may be opened, or None."""
        return Refused(MARGIN, self.fault) if self.fault else None
