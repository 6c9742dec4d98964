"""Whether an order that adds risk fits the limits: a pure function of policy, order and book.

The worst case is counted: every order under way fills, and nothing that would reduce does. So a
position of the other side is no room for an order: its stop may fill first.
Worth is taken at the order's price, at the decision; what the market does to the worth of a
position afterwards is the rebalancer's and the stops' affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple, Protocol

from catalog.timestamps import NS_PER_SECOND, format_time
from strategies.execution import InstrumentTerms, Side, exact_decimal
from strategies.risk_policy import RiskPolicy

REFUSALS = (
    "halted",
    "guard_failure",
    "clock",
    "bad_price",
    "bad_equity",
    "bad_quantity",
    "stale_data",
    "order_rate",
    "max_positions",
    "max_correlated",
    "max_symbol_share",
    "max_position_usd",
    "min_position_usd",
    "below_minimum",
    "global_positions",
    "global_correlated",
    "global_loss",
    "global_unknown",
    "foreign_position",
    "account_short",
    "stream_silent",
    "margin",
)
"""Every reason for which an order is refused or made smaller. Append only."""


class OrderIntent(NamedTuple):
    """An order that is about to leave.

    Parameters
    ----------
    ts : int
        Of the decision, UTC nanoseconds.
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    side : {-1, 1}
        Sells or buys.
    quantity : float
        Base units, positive.
    price : float
        Last close, quote units.
    terms : InstrumentTerms
        Step and minima: a smaller size is rounded DOWN to them.
    reduce_only : bool
        Whether the exchange may only let it reduce. Such an order is never refused.
    """

    ts: int
    instrument_id: str
    side: Side
    quantity: float
    price: float
    terms: InstrumentTerms
    reduce_only: bool = False


class Book(NamedTuple):
    """What is held and under way, the orders that `check` has just let pass included.

    Parameters
    ----------
    equity : float
        USDT, at the last marks.
    held : mapping of str to float
        Signed base units by instrument; flat ones may be left out or be 0.
    buying, selling : mapping of str to float
        Base units of orders under way that may add risk (not reduce-only), by instrument.
    """

    equity: float
    held: Mapping[str, float]
    buying: Mapping[str, float]
    selling: Mapping[str, float]

    def at_risk(self, instrument_id: str, side: Side) -> float:
        """Return the most base units that may be held on a side, orders under way included."""
        under_way = self.buying if side > 0 else self.selling
        held = max(side * self.held.get(instrument_id, 0.0), 0.0)
        return held + under_way.get(instrument_id, 0.0)

    def occupied(self) -> dict[str, tuple[bool, bool]]:
        """Return the instruments with a position or one to come: whether long, whether short."""
        names = {*self.held, *self.buying, *self.selling}
        sides = {
            name: (self.at_risk(name, 1) > 0.0, self.at_risk(name, -1) > 0.0) for name in names
        }
        return {name: found for name, found in sides.items() if any(found)}


class Allowed(NamedTuple):
    """Send it as it is."""

    quantity: float


class Reduced(NamedTuple):
    """Send it, but no more than `quantity` base units; `why` from `REFUSALS`."""

    quantity: float
    why: str
    detail: str


class Refused(NamedTuple):
    """Do not send it; `why` from `REFUSALS`."""

    why: str
    detail: str


type Ruling = Allowed | Reduced | Refused


class EntryGate(Protocol):
    """Limits over all strategies of an account, asked after those of one strategy's own guard."""

    def admit(self, policy: RiskPolicy, intent: OrderIntent) -> Refused | None:
        """Return why an order that adds risk may not leave, or None; then its place is taken."""

    def hold(self, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Take note of everything that this strategy holds or has under way: `Book.occupied`."""


def fit(
    policy: RiskPolicy, intent: OrderIntent, book: Book, groups: Iterable[frozenset[str]]
) -> Ruling:
    """Return whether an order that adds risk fits, as a whole, in part or not at all.

    Prices, equity and quantity must be finite and positive (`strategies.guard` sees to it).
    """
    return _crowded(policy, intent, book, groups) or _sized(policy, intent, book)


def _crowded(
    policy: RiskPolicy, intent: OrderIntent, book: Book, groups: Iterable[frozenset[str]]
) -> Refused | None:
    occupied = book.occupied()
    others = {name for name in occupied if name != intent.instrument_id}
    if len(others) >= policy.max_positions:
        return Refused(
            "max_positions",
            f"positions must be at most {policy.max_positions}, {intent.instrument_id} would be "
            f"number {len(others) + 1}",
        )
    if policy.correlated_count == "same_side":
        index = 0 if intent.side > 0 else 1
        others = {name for name in others if occupied[name][index]}
    for group in groups:
        if intent.instrument_id not in group:
            continue
        held = sorted(others & group)
        if len(held) >= policy.max_correlated:
            return Refused(
                "max_correlated",
                f"correlated positions must be at most {policy.max_correlated}, "
                f"{intent.instrument_id} moves with {', '.join(held)}",
            )
    return None


def _sized(policy: RiskPolicy, intent: OrderIntent, book: Book) -> Ruling:
    price = exact_decimal(intent.price)
    share = exact_decimal(policy.max_symbol_share) * exact_decimal(book.equity)
    largest = exact_decimal(policy.max_position_usd)
    rule, cap = ("max_symbol_share", share) if share <= largest else ("max_position_usd", largest)
    at_risk = exact_decimal(book.at_risk(intent.instrument_id, intent.side))
    wanted = exact_decimal(intent.quantity)
    room = cap / price - at_risk
    quantity = wanted
    if wanted > room:
        quantity = (max(room, Decimal(0)) / intent.terms.step).to_integral_value(ROUND_FLOOR)
        quantity *= intent.terms.step
    if quantity <= 0:
        return Refused(rule, _beyond(rule, cap, intent, at_risk, price))
    worth = (at_risk + quantity) * price
    if worth < exact_decimal(policy.min_position_usd):
        return Refused(
            "min_position_usd",
            f"a position must be worth at least {policy.min_position_usd:g} USDT, "
            f"{intent.instrument_id} would be worth {worth:.2f}",
        )
    if quantity == wanted:
        return Allowed(intent.quantity)
    terms = intent.terms
    if quantity < terms.min_quantity or quantity * price < terms.min_notional:
        return Refused(
            "below_minimum",
            f"what {rule} leaves of the order, {quantity} {intent.instrument_id}, "
            f"is less than the exchange takes",
        )
    return Reduced(float(quantity), rule, _beyond(rule, cap, intent, at_risk, price))


def _beyond(rule: str, cap: Decimal, intent: OrderIntent, at_risk: Decimal, price: Decimal) -> str:
    worth = (at_risk + exact_decimal(intent.quantity)) * price
    return (
        f"{rule}: a position in {intent.instrument_id} must be worth at most {cap:.2f} USDT, "
        f"was to be {worth:.2f}"
    )


def faulty(intent: OrderIntent, book: Book) -> Refused | None:
    """Return why the numbers of an order or its book cannot be worked with; None if they can."""
    price, equity, quantity = intent.price, book.equity, intent.quantity
    name = intent.instrument_id
    if unusable(price):
        return Refused("bad_price", f"price of {name} must be finite and positive, was {price}")
    if unusable(equity):
        return Refused("bad_equity", f"equity must be finite and positive, was {equity}")
    if unusable(quantity):
        return Refused(
            "bad_quantity", f"size in {name} must be finite and positive, was {quantity}"
        )
    return None


def outdated(intent: OrderIntent, now: int, lag_secs: float) -> Refused | None:
    """Return why an order is refused that is stamped before `now`; None if it is not too early."""
    if intent.ts >= now - lag_secs * NS_PER_SECOND:
        return None
    return Refused(
        "clock",
        f"an order must not be stamped more than {lag_secs:g} s before {format_time(now)}, "
        f"was {format_time(intent.ts)}",
    )


def stale(policy: RiskPolicy, intent: OrderIntent, seen: int, now: int) -> Refused | None:
    """Return why nothing is opened on data of the time `seen`; None if they are recent enough."""
    if now - seen <= policy.max_data_age_secs * NS_PER_SECOND:
        return None
    return Refused(
        "stale_data",
        f"data of {intent.instrument_id} must be at most {policy.max_data_age_secs:g} s old, "
        f"were of {format_time(seen)}",
    )


def too_many(policy: RiskPolicy, sent: Sequence[int], now: int) -> Refused | None:
    """Return why one more order would be too many; None if it is not.

    Parameters
    ----------
    policy : RiskPolicy
        Its `max_orders_per_second` and `max_orders_per_minute`.
    sent : sequence of int
        When the orders of the last minute left, UTC nanoseconds.
    now : int
        UTC nanoseconds.
    """
    last_second = sum(one > now - NS_PER_SECOND for one in sent)
    for name, count, limit in (
        ("second", last_second, policy.max_orders_per_second),
        ("minute", len(sent), policy.max_orders_per_minute),
    ):
        if count >= limit:
            detail = f"orders must be at most {limit} a {name}, this would be number {count + 1}"
            return Refused("order_rate", detail)
    return None


def unusable(value: float) -> bool:
    """Return whether a price, an equity or a quantity is not a finite positive number."""
    return not 0.0 < value < math.inf
