"""A guard that is normal and flat, and what it is asked: for the tests of the guard."""

from decimal import Decimal

from catalog.timestamps import NS_PER_DAY
from strategies.execution import InstrumentTerms
from strategies.guard import Guard
from strategies.guard_orders import Book, OrderIntent
from strategies.guard_state import Block, CancelAll, FlattenAll
from strategies.risk_policy import RiskPolicy

START = 19_723 * NS_PER_DAY  # 2024-01-01
NAMES = tuple(f"COIN{number}USDT-PERP.BINANCE" for number in range(20))
BTC = NAMES[0]
DRAWDOWN_OFF = {"max_drawdown": 0.999}


def terms(name=BTC, step="0.001", min_quantity="0.001", min_notional="5"):
    return InstrumentTerms(
        name, Decimal("0.1"), Decimal(step), Decimal(min_quantity), Decimal(min_notional)
    )


def policy(**changes):
    return RiskPolicy(**{"found_groups": None, "max_data_age_secs": 1e7, **changes})


def make(**changes):
    """A guard that is normal and flat at 100,000 USDT, at the start of a day."""
    guard = Guard(policy(**changes))
    guard.on_positions(START, 0)
    guard.on_equity(START, 100_000.0)
    guard.on_data(START)
    return guard


def intent(name=BTC, quantity=1.0, side=1, ts=START, price=100.0, reduce_only=False, **keywords):
    return OrderIntent(ts, name, side, quantity, price, terms(name, **keywords), reduce_only)


def book(held=None, equity=100_000.0, buying=None, selling=None):
    return Book(equity, held or {}, buying or {}, selling or {})


def kinds(actions):
    return tuple(type(action) for action in actions)


EVERYTHING = (CancelAll, FlattenAll, Block)
