"""What became of the orders of a process that ended: asked before anything is sent again.

Each order of the journal without an outcome is looked up at the exchange:

- It is known there: its trades and status are booked as if they were told now.
- It was ``planned`` and never left: it is sent under its own name if it is still right (what
  reduces risk while there is something to reduce, an entry while its decision is young), otherwise
  given up.
- It was ``sent`` and is unknown: it may still be on its way for as long as the exchange accepts a
  request of that age, so it is asked again after that time; then it is given up, never repeated. A
  stop or target that was given up is sent anew under another name.

Nothing leaves before all of it is known: the strategy's outbox is held until the caller, whose
client must be ready by then, releases it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from catalog.timestamps import NS_PER_SECOND
from live.state_store import PLANNED, SENT, JournalledOrder, StateStore
from strategies.kept import KeptStrategy
from strategies.order_reports import OrderReport

type Lookup = Callable[[str], OrderReport | None]
"""Asks the exchange for an order by our name of it; None where it does not know it."""


class RecoveryConfig(NamedTuple):
    """How long is waited and what is still right.

    Parameters
    ----------
    in_flight_secs : float
        How long a request may take to reach the exchange, seconds: the age at which it refuses
        one (Binance: 5 s), and a little. 0 for a paper account, whose orders arrive or die with
        the process: what it does not know has never left.
    fresh_secs : float
        Age of the decision up to which an entry that never left is sent, seconds of data time.
    """

    in_flight_secs: float = 6.0
    fresh_secs: float = 30.0


_DEFAULTS = RecoveryConfig()


@dataclass(slots=True)
class Recovered:
    """What a restart found; names of orders.

    Parameters
    ----------
    restored : bool
        Whether there was a state.
    ts : int
        Show the strategy the records from this time on, it included; UTC nanoseconds, 0 for all.
    known : list of str
        What the exchange knew.
    again : list of str
        What had never left and is sent now.
    lost : list of str
        What was given up.
    strays : list of str
        What is cancelled because nothing wants it any more.
    uncertain : list of str
        What may still be on its way, after `settle_once`.
    """

    restored: bool = False
    ts: int = 0
    known: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)


def restore(store: StateStore, strategy: KeptStrategy) -> Recovered:
    """Give a fresh strategy the state that was committed last, and hold what it wants to send.

    Before the node starts. `recover` does this and all the rest.

    Raises
    ------
    ConfigError
        If the state is of another strategy.
    DataError
        If it is damaged.
    """
    strategy.outbox.hold()
    snapshot = store.snapshot()
    if snapshot is None:
        return Recovered()
    strategy.restore(snapshot)
    return Recovered(restored=True, ts=snapshot.ts)


def settle_once(
    store: StateStore,
    strategy: KeptStrategy,
    lookup: Lookup,
    now: int,
    found: Recovered,
    config: RecoveryConfig = _DEFAULTS,
) -> Recovered:
    """Ask once for every order without an outcome; `found.uncertain` names what to ask again.

    Parameters
    ----------
    store, strategy : StateStore, KeptStrategy
        Restored.
    lookup : callable
        Asks the exchange. What it raises ends this, and nothing has been sent.
    now : int
        Time of the data, UTC nanoseconds: by it an entry is too old to be sent.
    found : Recovered
        What is known so far; added to, and returned.
    config : RecoveryConfig
        How long is waited.
    """
    done = {*found.known, *found.again, *found.lost}
    open_ = [
        one
        for one in store.unsettled()
        if one.client_order_id not in done and one.client_order_id in strategy.recorder.orders
    ]
    reports = {one.client_order_id: lookup(one.client_order_id) for one in open_}
    known = [one for one in reports.values() if one is not None]
    strategy.recovered(*known)
    found.known += [one.client_order_id for one in known]
    found.uncertain = []
    for order in open_:
        name = order.client_order_id
        if reports[name] is not None:
            continue
        if _never_left(order, config) and _still_right(order, strategy, now, config):
            strategy.send_again(name)
            found.again.append(name)
        elif order.state == SENT and _in_flight(order, config):
            found.uncertain.append(name)
        else:
            strategy.lost(name, max(now, order.ts_init))
            found.lost.append(name)
    if not found.uncertain:
        found.strays = strategy.take_back_strays()
    return found


def recover(
    store: StateStore,
    strategy: KeptStrategy,
    lookup: Lookup,
    now: Callable[[], int] = time.time_ns,
    config: RecoveryConfig = _DEFAULTS,
) -> Recovered:
    """Restore a strategy and settle its orders, waiting where one may still be on its way.

    Then, with a client that is ready: ``strategy.outbox.release()``.

    Raises
    ------
    ConfigError, DataError
        As `restore`.
    """
    found = restore(store, strategy)
    if not found.restored:
        return found
    # What an earlier process sent is over after so long, whatever a clock that was set says.
    over = time.monotonic() + config.in_flight_secs
    settle_once(store, strategy, lookup, now(), found, config)
    while found.uncertain:
        time.sleep(0.2)
        if time.monotonic() > over:
            config = config._replace(in_flight_secs=-math.inf)
        settle_once(store, strategy, lookup, now(), found, config)
    return found


def _still_right(
    order: JournalledOrder, strategy: KeptStrategy, now: int, config: RecoveryConfig
) -> bool:
    if order.ts_cancel:
        return False
    if order.reduce_only:
        return strategy.recorder.ledger.quantity(order.instrument_id) * order.side < 0.0
    return now - order.ts_init <= config.fresh_secs * NS_PER_SECOND


def _never_left(order: JournalledOrder, config: RecoveryConfig) -> bool:
    return order.state == PLANNED or (order.state == SENT and config.in_flight_secs == 0.0)


def _in_flight(order: JournalledOrder, config: RecoveryConfig) -> bool:
    return time.time_ns() - order.sent_ns < config.in_flight_secs * NS_PER_SECOND
