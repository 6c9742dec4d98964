"""What goes wrong on command.

Each fault is asked for by name with ``POST /control/fault`` or `Faults.add`, lasts for a number of
seconds or of occasions, and ends by itself. The names are those of `FAULTS`.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import ConfigError
from tests.exchange.errors import ExchangeError

FAULTS = {
    "drop": "close WebSockets at once, without a closing handshake; `channel` names which",
    "silence": "streams send nothing and answer no ping, sockets stay open; `channel`, or only "
    "the streams whose name `path` finds",
    "rate_limit": "REST answers 429 with Retry-After (`retry_after`, seconds)",
    "ban": "REST answers 418 with Retry-After",
    "server_error": "REST and WebSocket API answer `status` (500, 502, 503, 504)",
    "slow": "answers wait `delay_s` seconds",
    "lost_answer": "commands are carried out, and the connection closes without an answer",
    "duplicate": "each stream message is sent twice; `channel`",
    "reorder": "two stream messages in a row are sent the other way round; `channel`",
    "listen_key_expired": "every listen key ends, user streams are told",
    "reject_stop": "stops and targets are refused with `code`",
    "reject_order": "orders are refused with `code`",
    "clock_skew": "the exchange's clock is `skew_ms` off",
    "maintenance": "REST answers 503, sockets close and are refused",
}
"""What each fault does."""
CHANNELS = ("market", "user", "trading", "all")


@dataclass(slots=True)
class Fault:
    """A fault that is on.

    Parameters
    ----------
    name : str
        One of `FAULTS`.
    until : float
        When it ends, monotonic seconds.
    times : int, optional
        On how many occasions it happens; None for all.
    channel : str
        ``market``, ``user``, ``trading`` or ``all``.
    path : str
        Regular expression: which requests, by method, path and query, or which streams; all for an
        empty one.
    """

    name: str
    until: float
    times: int | None = None
    channel: str = "all"
    path: str = ""
    status: int = 500
    code: int = -2021
    retry_after: int = 1
    delay_s: float = 1.0
    skew_ms: int = 0
    happened: int = 0

    def covers(self, channel: str) -> bool:
        """Return whether it concerns a kind of connection."""
        return self.channel in ("all", channel)


@dataclass(slots=True)
class Faults:
    """The faults that are on now."""

    active: list[Fault] = field(default_factory=list)

    def add(self, name: str, seconds: float = 0.0, **details: Any) -> Fault:
        """Switch a fault on for some seconds; for ever where `times` says how often instead.

        Raises
        ------
        ConfigError
            If there is no such fault or detail.
        """
        if name not in FAULTS:
            raise ConfigError(f"fault must be one of {', '.join(FAULTS)}, was {name!r}")
        known = {one for one in Fault.__slots__ if one not in ("name", "until", "happened")}
        strange = sorted(set(details) - known)
        if strange:
            raise ConfigError(
                f"a fault's details must be among {', '.join(sorted(known))}, had "
                f"{', '.join(strange)}"
            )
        if details.get("channel", "all") not in CHANNELS:
            raise ConfigError(f"channel must be one of {', '.join(CHANNELS)}")
        endless = seconds <= 0.0
        until = float("inf") if endless else time.monotonic() + seconds
        if endless and "times" not in details and name not in ("drop", "listen_key_expired"):
            raise ConfigError(f"{name} must be given seconds or times, had neither")
        fault = Fault(name, until, **details)
        self.active.append(fault)
        return fault

    def clear(self) -> None:
        """End every fault."""
        self.active.clear()

    def find(self, name: str, channel: str = "all", path: str = "") -> Fault | None:
        """Return a fault of a name that is on and concerns a channel and a path; it happens."""
        now = time.monotonic()
        self.active = [
            one
            for one in self.active
            if one.until > now and (one.times is None or one.happened < one.times)
        ]
        for fault in self.active:
            if fault.name == name and (channel == "all" or fault.covers(channel)):
                if path and fault.path and not re.search(fault.path, path):
                    continue
                fault.happened += 1
                return fault
        return None

    @property
    def skew_ms(self) -> int:
        """How far the clock is off, milliseconds."""
        fault = self.find("clock_skew")
        return 0 if fault is None else fault.skew_ms

    async def before_answer(self, path: str) -> None:
        """Wait or refuse before a REST request is carried out.

        Raises
        ------
        ExchangeError
            With the fault's status.
        """
        slow = self.find("slow", path=path)
        if slow is not None:
            await asyncio.sleep(slow.delay_s)
        if self.find("maintenance", path=path) is not None:
            raise ExchangeError(-1016, "This service is no longer available.", status=503)
        ban = self.find("ban", path=path)
        if ban is not None:
            raise ExchangeError(
                -1003,
                "Way too many requests; IP banned. Please use the websocket for live updates.",
                status=418,
                retry_after=ban.retry_after,
            )
        limit = self.find("rate_limit", path=path)
        if limit is not None:
            raise ExchangeError(
                -1003, "Too many requests.", status=429, retry_after=limit.retry_after
            )
        error = self.find("server_error", path=path)
        if error is not None:
            raise ExchangeError(
                -1000,
                "An unknown error occurred while processing the request.",
                status=error.status,
            )

    def refuse_order(self, *, algo: bool) -> None:
        """Refuse an order where that was asked for; `ExchangeError` with the fault's code."""
        fault = self.find("reject_stop" if algo else "reject_order")
        if fault is not None:
            words = {-2021: "Order would immediately trigger.", -2019: "Margin is insufficient."}
            raise ExchangeError(fault.code, words.get(fault.code, "Order was rejected."))
