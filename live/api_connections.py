"""Connections of the control service: none may wait for ever, and none keeps another one out.

uvicorn gives a request that has not begun no time limit, and above its limit of connections answers
503 to whatever comes, the kill switch included. Here a connection has until a deadline to send a
request's headers, a request until another to be answered; and where there are too many, one of them
is ended for each that comes. Whoever holds many has those ended first, and such that wait for
nothing before those with a request under way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 128
HEADER_SECS = 5.0
"""For the headers of a request, from when the connection was made."""
KEEP_ALIVE_SECS = 15
"""Between two requests of a connection, seconds."""
REQUEST_SECS = 30.0
"""For the rest of a request and for taking its answer; none takes nearly as long."""


class BoundedConnection(H11Protocol):
    """A connection with deadlines, which makes room for itself."""

    _deadline: asyncio.TimerHandle | None = None
    _since: float = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; end another where there are too many."""
        super().connection_made(transport)
        self._wait(HEADER_SECS)
        if len(self.connections) > MOST_CONNECTIONS:
            others = [one for one in self.connections if isinstance(one, BoundedConnection)]
            crowds = Counter(one._address for one in others)
            others.remove(self)
            ended = max(others, key=lambda one: (one._idle, crowds[one._address], -one._since))
            ended._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; what is not yet a request changes no deadline."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self._idle:
            self._wait(REQUEST_SECS)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait(KEEP_ALIVE_SECS + HEADER_SECS)
        super().on_response_complete()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _wait(self, secs: float) -> None:
        """Give it so long for what comes next."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._since = self.loop.time()
        self._deadline = self.loop.call_later(secs, self._end)

    def _end(self) -> None:
        """End it at once; it may be that nobody reads what is still to be sent."""
        self.connections.discard(self)
        self.transport.abort()


class ServiceLoop(asyncio.SelectorEventLoop):
    """A loop in which a TLS handshake has the deadline of headers; uvicorn can hand on none."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """Listen."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HEADER_SECS
        return await super().create_server(*args, **options)
