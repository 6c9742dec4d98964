"""Whose money the books of an engine count: where they were begun, and with how much.

Books of play money must not go on with real money: they would size orders by what was never there.
And the part of an account that an engine was given may change between two of its processes: its
books move by the change, and so do the equities that the risk guard compares with, because what is
given or taken is neither gain nor loss.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from catalog.errors import ConfigError, DataError
from live.engine_parts import EngineParts
from live.engine_request import EngineRequest
from live.paper_store import PaperStore
from live.state_store import StateStore

OWNER = "owner"
"""Section of an engine's database with where its books belong."""
EQUITY = "equity"
"""Section with the part of the account that its books were given."""
_DECIMALS = 8
_MORE = 1.01
"""By how much books may exceed the account: settlements that are told late, rounding."""


def require_own_books(store: StateStore, request: EngineRequest) -> None:
    """Refuse books that were begun elsewhere; note where new ones belong.

    Raises
    ------
    ConfigError
        If they are of another mode, or of recorded data, or of another kind of server.
    """
    ours = _place(request)
    text = store.read(OWNER)
    if text is not None and store.snapshot() is not None:
        theirs = str(json.loads(text))
        if theirs != ours:
            raise ConfigError(
                f"books of engine {request.name} ({store.path}) must go on where they were begun, "
                f"{theirs}, were asked to on {ours}: what they count would be taken for money that "
                "is not there; give another --state or --name"
            )
    if text is None or json.loads(text) != ours:
        store.write(OWNER, json.dumps(ours), durable=True)


def _place(request: EngineRequest) -> str:
    if request.replay is not None:
        return "paper, recorded data"
    where = request.venue.title if request.exchange is None else "another server (--exchange)"
    return f"{request.mode}, {where}"


class Part(NamedTuple):
    """The part of an account that an engine may count as its own.

    `given` is in USDT, None for all of the account; `balance` is what the account holds, None for
    one on paper, whose `paper` store moves as well.
    """

    given: float | None
    balance: float | None = None
    paper: PaperStore | None = None


@dataclass(frozen=True, slots=True)
class _Given:
    """What the books were given, USDT; while they move, the cash that they and paper move to."""

    given: float | None
    cash: float | None = None
    paper: float | None = None


def follow_equity(parts: EngineParts, part: Part, teller: Any) -> None:
    """Move books that go on by what their part of the account has changed since the last process.

    After the strategy has been restored, before the node runs.

    Parameters
    ----------
    parts : EngineParts
        Restored.
    part : Part
        As it is now.
    teller : Teller
        Told of a change.

    Raises
    ------
    ConfigError
        If more is taken away than there is.
    DataError
        If it cannot be written down.
    """
    text = parts.store.read(EQUITY)
    before = _Given(part.given) if text is None else _Given(**json.loads(text))
    if before.cash is None and before.given != part.given:
        before = _planned(parts, part, before.given)
        # An end of the process from here on repeats what follows, which changes nothing then.
        parts.store.write(EQUITY, asdict(before), durable=True)
        now = "all of it" if part.given is None else f"{part.given:,.2f} USDT"
        teller.event("equity", f"its part of the account is {now} from now on")
    if before.cash is not None:
        _move(parts, before.cash, before.paper, part.paper)
    parts.store.write(EQUITY, asdict(_Given(part.given)), durable=True)


def within_balance(parts: EngineParts, balance: float, teller: Any) -> None:
    """Let books that say more than all of the account follow it; what is missing is a loss.

    Parameters
    ----------
    parts : EngineParts
        Restored.
    balance : float
        Of the account's wallet, USDT.
    teller : Teller
        Told of it.
    """
    ledger = parts.recorder.ledger
    if ledger.cash <= balance * _MORE:
        return
    text = f"our books say {ledger.cash:,.2f} USDT of cash, all of the account is {balance:,.2f}"
    teller.event("reconcile", text, difference="cash", what="USDT")
    ledger.cash = round(balance, _DECIMALS)
    _commit(parts)


def _planned(parts: EngineParts, part: Part, before: float | None) -> _Given:
    ledger = parts.recorder.ledger
    if part.given is None:
        assert part.balance is not None
        change = part.balance - ledger.cash
    else:
        change = part.given - (ledger.cash if before is None else before)
    if ledger.equity() + change <= 0.0:
        raise ConfigError(
            f"--equity must leave engine {parts.request.name} something of its "
            f"{ledger.equity():,.2f} USDT, would take {-change:,.2f} away"
        )
    kept = None if part.paper is None else part.paper.snapshot()
    paper = None if kept is None else round(kept.book.ledger.cash + change, _DECIMALS)
    return _Given(part.given, round(ledger.cash + change, _DECIMALS), paper)


def _move(parts: EngineParts, cash: float, there: float | None, paper: PaperStore | None) -> None:
    kept = None if paper is None else paper.snapshot()
    if paper is not None and kept is not None and there is not None:
        ledger = replace(kept.book.ledger, cash=there)
        paper.keep(replace(kept, book=replace(kept.book, ledger=ledger)))
    books, state = parts.recorder.ledger, parts.guard.guard.state
    change = cash - books.cash
    books.transfer(change)
    for name in ("equity", "day_start_equity", "peak_equity"):
        value = getattr(state, name)
        if value is not None:
            setattr(state, name, value + change)
    parts.guard.watch.save()
    _commit(parts)


def _commit(parts: EngineParts) -> None:
    with parts.strategy.outbox:
        parts.strategy.outbox.touched = True
    if parts.recorder.errors:
        raise DataError(f"the books must be written down, were not: {parts.recorder.errors[-1]}")
