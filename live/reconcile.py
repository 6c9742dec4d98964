"""Our books against the exchange's: what differs, and whose it is. Pure.

The exchange is always right about what is held and what rests there. A difference is told, and
what is ours follows the exchange; what a person opened is left alone unless the profile claims it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

type Kind = Literal["position", "foreign_position", "lost_order", "unknown_order", "foreign_order"]
_DUST = 1e-9


@dataclass(frozen=True, slots=True)
class Resting:
    """An order that is open at the exchange."""

    client_order_id: str
    instrument_id: str
    side: int
    quantity: float
    type: str = ""
    trigger: float = 0.0


@dataclass(frozen=True, slots=True)
class Books:
    """What is held and what rests, as one side sees it.

    Parameters
    ----------
    positions : mapping of str to float
        Signed base units by instrument, without those that are flat.
    orders : tuple of Resting
        Open orders.
    """

    positions: Mapping[str, float] = field(default_factory=dict)
    orders: tuple[Resting, ...] = ()


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One thing that our books and the exchange's say differently.

    Parameters
    ----------
    kind : str
        ``position``: an instrument of ours is held in another quantity. ``foreign_position``: one
        that we do not trade, or that we hold nothing of, is held. ``lost_order``: one that we take
        for open is not there. ``unknown_order``: one with our mark is there that we do not know.
        ``foreign_order``: one of somebody else's.
    what : str
        Instrument or order.
    ours, theirs : float
        Quantities, signed base units.
    """

    kind: Kind
    what: str
    ours: float = 0.0
    theirs: float = 0.0

    def __str__(self) -> str:
        names = {
            "position": "position in {0.what}: our books say {0.ours:g}, the exchange {0.theirs:g}",
            "foreign_position": "position of {0.theirs:g} in {0.what} is not ours, left alone",
            "lost_order": "order {0.what} is open in our books and not at the exchange",
            "unknown_order": "order {0.what} with our mark is open at the exchange and not in our "
            "journal, left alone: cancel it there, and find out who sends under this name",
            "foreign_order": "order {0.what} is not ours, left alone",
        }
        return names[self.kind].format(self)


def compare_books(
    ours: Books, theirs: Books, mine: Sequence[str], mark: str
) -> tuple[Discrepancy, ...]:
    """Return what differs.

    Parameters
    ----------
    ours, theirs : Books
        What we think, and what the exchange says.
    mine : sequence of str
        Instruments that this engine trades.
    mark : str
        With what the identifiers of its orders begin.
    """
    found: list[Discrepancy] = []
    for name in sorted({*ours.positions, *theirs.positions}):
        held, said = ours.positions.get(name, 0.0), theirs.positions.get(name, 0.0)
        if abs(held - said) <= _DUST:
            continue
        foreign = name not in mine or held == 0.0
        found.append(Discrepancy("foreign_position" if foreign else "position", name, held, said))
    known = {one.client_order_id: one for one in ours.orders}
    open_there = {one.client_order_id for one in theirs.orders}
    lost = sorted(known.keys() - open_there)
    found += [Discrepancy("lost_order", name, known[name].quantity) for name in lost]
    for one in sorted(theirs.orders, key=lambda order: order.client_order_id):
        if one.client_order_id in known:
            continue
        kind: Kind = "unknown_order" if one.client_order_id.startswith(mark) else "foreign_order"
        found.append(Discrepancy(kind, one.client_order_id, 0.0, one.quantity))
    return tuple(found)
