"""What an engine that is given up leaves at the exchange: its limit entries are taken back.

Stops and targets stay, for positions stay. A limit entry would open a position that nobody gives a
stop. It ends by itself after some bars, unless it is post-only (`strategies.limit_orders`); a
supervisor that gives an engine up does not leave it even so long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from adapters.accounts import AccountOrder, AccountState, BinanceAccount
from catalog.errors import LeviBotError
from live.engine_process import EngineEvent
from live.engine_request import EngineRequest
from live.engine_status import EngineStatus
from live.registry import EngineRecord
from strategies.recorder import LIMIT

AGAIN_SECS = 10.0
"""The pause after an exchange that did not answer."""


class Account(Protocol):
    """An exchange's account; `adapters.accounts.BinanceAccount`."""

    def state(self, instruments: tuple[str, ...]) -> AccountState:
        """Return its open orders."""

    def cancel(self, order: AccountOrder) -> None:
        """Take an order back."""


def account_of(request: EngineRequest) -> Account:
    """Return the account that an engine trades on."""
    return BinanceAccount(request.order_connection())


def take_back_entries(request: EngineRequest, account: Account) -> tuple[str, ...]:
    """Cancel an engine's resting limit entries, and return their names.

    Raises
    ------
    AdapterError
        If the exchange does not answer; some may be cancelled then.
    """
    mark = f"{request.order_tag}-E"
    entries = [
        one
        for one in account.state(request.traded).orders
        if one.type == LIMIT and one.client_order_id.startswith(mark)
    ]
    for one in entries:
        account.cancel(one)
    return tuple(one.client_order_id for one in entries)


class GivenUp:
    """An observer that takes back what engines leave that are given up, as long as it takes.

    Parameters
    ----------
    requests : mapping of str to EngineRequest
        The engines whose orders reach an exchange, by name.
    tell : callable
        Told what was taken back, in words.
    account : callable
        Returns an engine's account.
    again_secs : float
        The pause after an exchange that did not answer, seconds.
    """

    def __init__(
        self,
        requests: Mapping[str, EngineRequest],
        tell: Callable[[str], None],
        account: Callable[[EngineRequest], Account] = account_of,
        again_secs: float = AGAIN_SECS,
    ) -> None:
        self._requests = requests
        self._tell = tell
        self._account = account
        self._again_secs = again_secs
        self._back: dict[str, threading.Event] = {}

    def on_event(self, event: EngineEvent) -> None:
        """Begin where an engine is given up, and leave it to an engine that is started again."""
        back = self._back.pop(event.engine, None) if event.kind == "started" else None
        if back is not None:
            back.set()
        if event.kind == "given_up" and event.engine in self._requests:
            back = self._back[event.engine] = threading.Event()
            name = f"given-up-{event.engine}"
            threading.Thread(
                target=self._take_back, args=(event.engine, back), name=name, daemon=True
            ).start()

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Do nothing: what was left is taken back on threads."""

    def _take_back(self, engine: str, back: threading.Event) -> None:
        request, told = self._requests[engine], ""
        while not back.is_set():
            try:
                names = take_back_entries(request, self._account(request))
            except LeviBotError as error:
                if str(error) != told:
                    told = str(error)
                    self._tell(f"limit entries of {engine} cannot be taken back yet: {told}")
                back.wait(self._again_secs)
                continue
            if names:
                self._tell(f"{engine} is given up: its entries {', '.join(names)} are taken back")
            return
