"""Whose money the books of an engine count: where they were begun, and with how much.

Books of play money must not go on with real money, nor those of one account with another's: they
would size orders by what was never there. And the part of an account that an engine was given may
change between two of its processes: its books move by the change, and the equities that the risk
guard compares with are scaled, because what is given or taken is neither gain nor loss.
"""

from __future__ import annotations

import hashlib
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
ACCOUNT = "account"
"""Section with what tells the account of its books from others."""
MODEL = "model"
"""Section with the digest of the bundle that predicted last."""
EQUITY = "equity"
"""Section with the part of the account that its books were given."""
_DECIMALS = 8


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


def require_own_account(store: StateStore, request: EngineRequest, identity: str) -> None:
    """Refuse books that were begun on another account; note the account of new ones.

    Parameters
    ----------
    store : StateStore
        The engine's database.
    request : EngineRequest
        The engine.
    identity : str
        The exchange's own name of the account, which outlives its keys; "" tells nothing.

    Raises
    ------
    ConfigError
        If they are of another account.
    """
    if not identity:
        return
    ours = hashlib.sha256(f"{_place(request)} {identity}".encode()).hexdigest()[:16]
    text = store.read(ACCOUNT)
    theirs = None if text is None else str(json.loads(text))
    if theirs not in (None, ours) and store.snapshot() is not None:
        raise ConfigError(
            f"books of engine {request.name} ({store.path}) must go on with the account that they "
            f"were begun on (known here as {theirs}), the keys are another account's ({ours}): set "
            "the keys of that account, or give another --state or --name"
        )
    if theirs != ours:
        store.write(ACCOUNT, json.dumps(ours), durable=True)


def follow_model(store: StateStore, digest: str, teller: Any) -> None:
    """Tell that another model goes on with the books: its predictions manage what is open.

    Parameters
    ----------
    store : StateStore
        The engine's database.
    digest : str
        Of the bundle.
    teller : Teller
        Told of it.
    """
    text = store.read(MODEL)
    before = None if text is None else str(json.loads(text))
    if before != digest:
        store.write(MODEL, json.dumps(digest))
    if before not in (None, digest):
        teller.event("model", f"another model goes on: bundle {digest[:12]}, before {before[:12]}")


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


def follow_equity(parts: EngineParts, part: Part, teller: Any) -> bool:
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

    Returns
    -------
    bool
        Whether it has changed.

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
    moves = before.cash is not None
    if before.cash is not None:
        _move(parts, before.cash, before.paper, part.paper)
    parts.store.write(EQUITY, asdict(_Given(part.given)), durable=True)
    return moves


def move_books(parts: EngineParts, change: float) -> None:
    """Book what was given or taken, USDT: no gain and no loss to anything that is compared.

    Raises
    ------
    DataError
        If it cannot be written down.
    """
    factor = parts.recorder.ledger.transfer(change)
    state = parts.guard.guard.state
    if state.equity is not None:
        state.equity += change
    for name in ("day_start_equity", "peak_equity"):
        value = getattr(state, name)
        if value is not None:
            setattr(state, name, value * factor)
    # What is committed holds the guard's figures too: were its own file first, an end of the
    # process between the two would scale them twice.
    commit_books(parts)
    parts.guard.watch.save()


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
    change = cash - parts.recorder.ledger.cash
    if round(change, _DECIMALS):
        move_books(parts, change)


def commit_books(parts: EngineParts) -> None:
    """Write the books down as they are now.

    Raises
    ------
    DataError
        If that fails.
    """
    with parts.strategy.outbox:
        parts.strategy.outbox.touched = True
    if parts.recorder.errors:
        raise DataError(f"the books must be written down, were not: {parts.recorder.errors[-1]}")
