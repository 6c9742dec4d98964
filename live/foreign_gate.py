"""No entry into an instrument in which the account holds somebody else's position.

An account of one-way positions adds up what everybody holds in an instrument. Beside another's
position of the opposite side our stop would be refused, because it would reduce nothing, and the
other's orders that reduce would close ours. So what is not ours is left alone in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from strategies.guard_orders import EntryGate, OrderIntent, Refused
from strategies.risk_policy import RiskPolicy

FOREIGN_POSITION = "foreign_position"


class ForeignGate:
    """An `EntryGate` in front of another.

    Parameters
    ----------
    foreign : callable
        Returns what is somebody else's: signed base units by instrument.
    then : EntryGate or None
        Asked where nothing is.
    """

    def __init__(
        self, foreign: Callable[[], Mapping[str, float]], then: EntryGate | None = None
    ) -> None:
        self._foreign = foreign
        self._then = then

    def admit(self, policy: RiskPolicy, intent: OrderIntent) -> Refused | None:
        """Return why an order that adds risk may not leave, or None."""
        theirs = self._foreign().get(intent.instrument_id, 0.0)
        if theirs:
            return Refused(
                FOREIGN_POSITION,
                f"nothing may be opened beside somebody else's position, {theirs:g} of "
                f"{intent.instrument_id} are not ours: close them, or start with --claim "
                "(live.claim in the profile)",
            )
        return None if self._then is None else self._then.admit(policy, intent)

    def hold(self, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Pass on what is held and under way."""
        if self._then is not None:
            self._then.hold(occupied)
