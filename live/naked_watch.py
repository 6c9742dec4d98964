"""Whether stops at the exchange cover every open position whole, and since when they have not.

Pure: it is told what is held and what rests, and when, and answers with what has been naked for too
long. Stops are sent when a position opens and replaced before they are taken back, so that a
position is naked for as long as one order travels; anything longer is a fault of somebody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from catalog.timestamps import NS_PER_SECOND

PATIENCE_NS = 2 * NS_PER_SECOND
"""How long a position may be without its stop."""
AGAIN_NS = NS_PER_SECOND
"""Between two attempts to close it."""


class Stop(NamedTuple):
    """A stop that rests: instrument, 1 if it buys and -1 if it sells, and what it would reduce."""

    instrument_id: str
    side: int
    quantity: float


def covered(
    positions: Mapping[str, float], stops: Iterable[Stop], steps: Mapping[str, float]
) -> set[str]:
    """Return the instruments whose stops cover all of their position.

    Parameters
    ----------
    positions : mapping of str to float
        Signed quantities, base units, by instrument.
    stops : iterable of Stop
        What rests; several of an instrument add up.
    steps : mapping of str to float
        Size increments, base units, by instrument: less than half of one is rounding.
    """
    sums = dict.fromkeys(positions, 0.0)
    for one in stops:
        if one.side * positions.get(one.instrument_id, 0.0) < 0.0:
            sums[one.instrument_id] += one.quantity
    return {
        name
        for name, total in sums.items()
        if total > 0.0 and total >= abs(positions[name]) - steps[name] / 2.0
    }


class Naked(NamedTuple):
    """A position that no stop covers whole: instrument, signed quantity, for how many ns.

    `is_new` until it has been returned once.
    """

    instrument_id: str
    quantity: float
    age_ns: int
    is_new: bool


class NakedWatch:
    """Remembers since when each position has been without stops that cover it.

    Parameters
    ----------
    patience_ns : int
        How long that is no alarm, nanoseconds.
    """

    def __init__(self, patience_ns: int = PATIENCE_NS) -> None:
        self._patience_ns = patience_ns
        self._since: dict[str, int] = {}
        self._told: set[str] = set()
        self._again: dict[str, int] = {}
        self.alarms = 0
        """Positions that were naked for too long."""

    def look(
        self, now: int, positions: Mapping[str, float], stopped: Collection[str]
    ) -> tuple[Naked, ...]:
        """Return the positions that have been naked for too long, each once a second.

        A way out that is refused is not sent anew at each look: where the position is gone, and our
        books do not know it yet, that would be a storm of orders.

        Parameters
        ----------
        now : int
            By a clock that only goes forward, nanoseconds.
        positions : mapping of str to float
            Signed quantities of those that are to have a stop, by instrument.
        stopped : collection of str
            Instruments whose stops at the exchange cover all of the position.
        """
        naked = {name for name, held in positions.items() if held != 0.0 and name not in stopped}
        for name in set(self._since) - naked:
            del self._since[name]
            self._told.discard(name)
            self._again.pop(name, None)
        found = []
        for name in sorted(naked):
            age = now - self._since.setdefault(name, now)
            if age > self._patience_ns and now >= self._again.get(name, 0):
                self._again[name] = now + AGAIN_NS
                found.append(Naked(name, positions[name], age, name not in self._told))
                self._told.add(name)
        self.alarms += sum(one.is_new for one in found)
        return tuple(found)
