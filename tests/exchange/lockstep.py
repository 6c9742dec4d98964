"""Drive an exchange in lock-step from the process of its client.

The compiled adapter has no barrier of its own, and its sockets race with each other. So the client
counts what its callbacks have seen (`ClientView`, plain numbers that any thread may read), the
exchange says what it has sent and received, and `LockStep` lets the next step happen once both
agree: every bar was handled, every command has come in, every order is known in its new state.
What a client does after that belongs to the next time, as in the replay.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from nautilus_trader.adapters.binance import decode_binance_futures_client_order_id

from catalog.errors import RunFailedError

_POLL_S = 0.0005
_ENDS = ("OrderRejected", "OrderCanceled", "OrderExpired", "OrderDenied")


@dataclass(slots=True)
class OrderView:
    """An order as a strategy has heard of it."""

    accepted: bool = False
    ended: bool = False
    filled: float = 0.0


@dataclass(slots=True)
class ClientView:
    """What a client's callbacks have seen; they write, the driver reads.

    Attributes
    ----------
    handled : Counter
        Records handled by stream, such as ``btcusdt@kline_15m``; streams that are not in it are
        not waited for, so name each (`expect`) before the first step.
    sent : int
        Orders and cancels that left the strategies and were not denied by the engine.
    orders : dict of OrderView
        By client order id.
    """

    handled: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    orders: dict[str, OrderView] = field(default_factory=dict)

    def expect(self, *streams: str) -> None:
        """Name streams that are waited for."""
        for name in streams:
            self.handled.setdefault(name, 0)

    def saw(self, stream: str) -> None:
        """Note that a record of a stream was handled, all that it led to included."""
        self.handled[stream] += 1

    def on_order_event(self, event: Any) -> None:
        """Note an event of an order; call it from a strategy's `on_order_event`, last."""
        what, order = type(event).__name__, self.orders.get(str(event.client_order_id))
        if order is None:
            order = self.orders[str(event.client_order_id)] = OrderView()
        if what in ("OrderInitialized", "OrderPendingCancel", "OrderPendingUpdate"):
            self.sent += 1
        elif what == "OrderAccepted":
            order.accepted = True
        elif what == "OrderFilled":
            order.filled += float(event.last_qty)
        elif what in _ENDS:
            order.ended = True
            self.sent -= what == "OrderDenied"


class LockStep:
    """Lets the exchange's market go on, a step at a time, when the client is ready.

    Parameters
    ----------
    url : str
        Of an exchange in the mode ``lockstep``.
    view : ClientView
        What the client has seen.
    account : str
        The account's name at the exchange.
    timeout_s : float
        Longest wait for the client, seconds.
    settle_s : float
        How long both must agree before the next step, seconds: a callback that is about to send
        has not been counted. Callbacks that count after they have sent need none.
    """

    def __init__(
        self,
        url: str,
        view: ClientView,
        *,
        account: str = "main",
        timeout_s: float = 30.0,
        settle_s: float = 0.002,
    ) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
        self._view = view
        self._account = account
        self._timeout_s = timeout_s
        self._settle_s = settle_s
        self._sent: Counter[str] = Counter()
        self._orders: dict[str, dict[str, Any]] = {}
        self._requests = 0
        self._base = self._call("GET", "accounts")[account]["requests"]
        self.step: dict[str, Any] | None = None
        self.steps = 0

    def await_client(self, streams: Iterable[str], *, seconds: float = 30.0) -> None:
        """Wait until the client listens to market streams and to its account's events.

        Raises
        ------
        RunFailedError
            If it does not in time.
        """
        wanted, end = set(streams), time.monotonic() + seconds
        while True:
            state = self._call("GET", "state")
            missing = wanted - set(state["subscriptions"])
            if not missing and state["connections"]["user"]:
                return
            if time.monotonic() > end:
                raise RunFailedError(
                    f"the client must listen within {seconds:g} s, lacks {sorted(missing)} and "
                    f"has {state['connections']['user']} user streams"
                )
            time.sleep(0.02)

    def run(
        self,
        *,
        until: int | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> int:
        """Let the market go on to its end, or to a time; return how many steps there were.

        Parameters
        ----------
        until : int, optional
            Market time, UTC nanoseconds, after which no step is begun.
        on_step : callable, optional
            Told each step once the client has handled it.

        Raises
        ------
        RunFailedError
            If the client does not handle a step in time, saying what is missing.
        """
        before = self.steps
        while True:
            self.wait()
            if self.step is not None and on_step is not None:
                on_step(self.step)
            if until is not None and self.step is not None and self.step["ts"] >= until:
                return self.steps - before
            if not self.advance():
                return self.steps - before

    def advance(self) -> bool:
        """Let one step happen; false at the end of the market."""
        answer = self._call("POST", "advance")
        self._learn(answer["accounts"])
        self.step = answer["step"]
        if self.step is None:
            return False
        self._sent.update(self.step["market"])
        self.steps += 1
        return True

    def wait(self) -> None:
        """Wait until the client has handled everything that was sent, and is heard.

        Raises
        ------
        RunFailedError
            If it does not in time.
        """
        end = time.monotonic() + self._timeout_s
        agreed = 0.0
        while True:
            missing = self.missing()
            now = time.monotonic()
            if missing:
                agreed = 0.0
            elif not agreed:
                agreed = now
            if agreed and now - agreed >= self._settle_s:
                return
            if now > end:
                raise RunFailedError(
                    f"the client must handle step {self.steps} within {self._timeout_s:g} s, but "
                    f"{missing}"
                )
            time.sleep(_POLL_S)

    def missing(self) -> str:
        """Return in words what the client or the exchange has not seen yet; empty for nothing."""
        view, unhandled = self._view, self.unhandled()
        if unhandled:
            return unhandled
        if self._requests < view.sent:
            self._learn(self._call("GET", "accounts?changed=true"))
        if self._requests < view.sent:
            return f"{view.sent} commands were sent, {self._requests} came in"
        for name, one in list(self._orders.items()):
            fault = _behind(view.orders.get(name), one)
            if fault:
                return f"order {name} {fault}"
            if not one["open"]:
                del self._orders[name]
        return ""

    def unhandled(self) -> str:
        """Return in words which market records the client has not handled; empty for none."""
        view = self._view
        for name in list(view.handled):
            if view.handled[name] < self._sent[name]:
                return f"{name}: {view.handled[name]} of {self._sent[name]} records were handled"
        return ""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _learn(self, accounts: dict[str, Any]) -> None:
        account = accounts[self._account]
        self._requests = account["requests"] - self._base
        for name, one in account["orders"].items():
            self._orders[_decoded(name)] = one

    def _call(self, method: str, path: str) -> Any:
        self._connection.request(method, f"/control/{path}")
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RunFailedError(f"/control/{path} must be answered, was {answer.status}: {body!r}")
        return json.loads(body)


def _decoded(name: str) -> str:
    try:
        return str(decode_binance_futures_client_order_id(name))
    except ValueError:
        return name


def _behind(seen: OrderView | None, one: dict[str, Any]) -> str:
    """Return in words what a client has not heard of an order; empty for nothing."""
    if seen is None:
        # Somebody else's.
        return ""
    if one["accepted"] and not (seen.accepted or seen.ended):
        return "is accepted, which was not heard"
    if abs(seen.filled - one["executed"]) > 1e-9:
        return f"has filled {one['executed']:g}, {seen.filled:g} was heard"
    if one["status"] in ("CANCELED", "EXPIRED", "REJECTED") and not seen.ended:
        return f"is {one['status']}, which was not heard"
    return ""
