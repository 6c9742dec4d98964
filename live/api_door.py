"""What stands before the control service: who may come in, how often, and with how much.

Every request passes, those for paths that do not exist included. It is refused, in this order, for

401  a wrong or missing bearer token, where the environment names one (compared in constant time)
403  without a token: a host name that is not this machine's, or a page of another origin that a
     browser on this machine has open
429  more requests than one client may send; setting the kill switch is never refused for this
413  a body larger than any command needs, 408 one that does not end
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalog.errors import ConfigError

TOKEN_VARIABLE = "LEVIBOT_API_TOKEN"  # noqa: S105 - the name of the variable, not a token
LEAST_TOKEN_CHARACTERS = 16
KILL_PATH = "/ml/kill"

_CLIENTS_REMEMBERED = 1_024
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Rate(NamedTuple):
    """How often something may happen: so often each second in the long run, so often at once."""

    per_second: float
    burst: float


REQUESTS = Rate(20.0, 60.0)
REFUSALS = Rate(0.5, 10.0)


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Who may come in.

    Parameters
    ----------
    token : str or None
        From the environment; None lets in whoever is on this machine. Never shown.
    requests : Rate
        Of one client with the right token.
    refusals : Rate
        Of one client with a wrong one: after these it is told 429 instead of 401.
    most_body_bytes : int
        Larger bodies are refused.
    body_secs : float
        A body must be there by then.
    """

    token: str | None = field(default=None, repr=False)
    requests: Rate = REQUESTS
    refusals: Rate = REFUSALS
    most_body_bytes: int = 16_384
    body_secs: float = 5.0

    def __post_init__(self) -> None:
        """Refuse a token that can be guessed or that no header can carry.

        Raises
        ------
        ConfigError
            If it is too short, or not of printable ASCII without blanks.
        """
        token = self.token
        if token is None:
            return
        if len(token) < LEAST_TOKEN_CHARACTERS or not all("!" <= one <= "~" for one in token):
            raise ConfigError(
                f"{TOKEN_VARIABLE} must be at least {LEAST_TOKEN_CHARACTERS} printable ASCII "
                f"characters without blanks, was {len(token)} characters (not shown): make one "
                "with `openssl rand -hex 32`"
            )


class Refusal(NamedTuple):
    """Why a request does not come in."""

    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()


class Buckets:
    """A token bucket for each client; the clients that came last are remembered."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one; return 0, or the seconds until there is one again."""
        now = self._clock()
        left, then = self._left.pop(client, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - then) * self._rate.per_second)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._rate.per_second
        self._left[client] = (left if wait else left - 1.0, now)
        if len(self._left) > _CLIENTS_REMEMBERED:
            self._left.popitem(last=False)
        return wait


class RequestMetrics:
    """How many requests there were, and how long they took."""

    def __init__(self) -> None:
        # Its time of creation is of no use here and would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "levibot_api_requests",
            "Requests to the control service.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "levibot_api_request_duration_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_DURATIONS,
            registry=self.registry,
        )

    def add(self, scope: Scope, status: int, secs: float) -> None:
        """Count a request; routes that do not exist are one."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(route).observe(secs)


class Door:
    """ASGI middleware that lets requests in or refuses them.

    Parameters
    ----------
    app : ASGIApp
        What lies behind.
    config : DoorConfig
        Who may come in.
    metrics : RequestMetrics
        Counts every request.
    on_refused : callable
        Is told of refused commands: client, method and path, reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: DoorConfig,
        metrics: RequestMetrics,
        on_refused: Callable[[str, str, str], None],
    ) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics
        self._on_refused = on_refused
        self._requests = Buckets(config.requests)
        self._refusals = Buckets(config.refusals)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            # No WebSockets, and nothing to do when the server starts or ends.
            return
        begun, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        try:
            refusal = self._refusal(scope) or await self._read_body(scope, receive)
            if refusal is None:
                await self._app(scope, _no_body(receive), answer)
            else:
                await _refuse(refusal, answer)
        finally:
            self._metrics.add(scope, status, time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> Refusal | None:
        client = client_of(scope)
        refusal = self._stranger(scope)
        if refusal is not None:
            wait = self._refusals.take(client)
            if wait:
                return _too_many(wait)
            if scope["method"] == "POST":
                self._on_refused(client, f"{scope['method']} {scope['path']}", refusal.detail)
            return refusal
        wait = 0.0 if _sets_kill_switch(scope) else self._requests.take(client)
        return _too_many(wait) if wait else None

    def _stranger(self, scope: Scope) -> Refusal | None:
        headers = _Headers.of(scope)
        if self._config.token is None:
            return _not_from_here(headers)
        if headers.is_bearer(self._config.token):
            return None
        return Refusal(
            401,
            f"the bearer token must be that of {TOKEN_VARIABLE} of the service, was another or "
            "none: send the header 'Authorization: Bearer ...'",
            (("www-authenticate", 'Bearer realm="levibot"'),),
        )

    async def _read_body(self, scope: Scope, receive: Receive) -> Refusal | None:
        """Read a body and forget it: no command has one."""
        headers, most = _Headers.of(scope), self._config.most_body_bytes
        too_large = Refusal(
            413, f"a body must be at most {most:,} bytes, was larger", (("connection", "close"),)
        )
        if headers.content_length > most:
            return too_large
        if not headers.content_length and not headers.chunked:
            return None
        size = 0
        try:
            async with asyncio.timeout(self._config.body_secs):
                while True:
                    message = await receive()
                    size += len(message.get("body", b""))
                    if size > most:
                        return too_large
                    if not message.get("more_body", False):
                        return None
        except TimeoutError:
            text = f"a body must end within {self._config.body_secs:g} s, did not"
            return Refusal(408, text, (("connection", "close"),))


def client_of(scope: Scope) -> str:
    """Return the address of who asks."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is only reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Headers:
    """The headers that the door looks at."""

    values: Mapping[str, list[bytes]]

    @classmethod
    def of(cls, scope: Scope) -> _Headers:
        found: dict[str, list[bytes]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.decode("latin-1").lower(), []).append(value)
        return cls(found)

    def one(self, name: str) -> str:
        """Return the value of a header; "" if there is none, or more than one."""
        found = self.values.get(name, [])
        return found[0].decode("latin-1").strip() if len(found) == 1 else ""

    def is_bearer(self, token: str) -> bool:
        """Return whether the token is this one, in a time that does not depend on where not."""
        scheme, _, given = self.one("authorization").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode("ascii"))
        return same and scheme.lower() == "bearer"

    @property
    def content_length(self) -> int:
        """Return the announced length; 0 if there is none."""
        text = self.one("content-length")
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def chunked(self) -> bool:
        """Return whether a body of unknown length follows."""
        return "transfer-encoding" in self.values


def _not_from_here(headers: _Headers) -> Refusal | None:
    """Refuse what a web page in a browser on this machine sends, by any name of this machine."""
    host = _host_of(f"//{headers.one('host')}")
    if not is_loopback(host):
        return Refusal(
            403, f"without a token the host must be this machine's, such as localhost, was {host!r}"
        )
    origin = headers.one("origin")
    if ("origin" in headers.values and not is_loopback(_host_of(origin))) or headers.one(
        "sec-fetch-site"
    ) in ("cross-site", "same-site"):
        return Refusal(
            403, "without a token a request must not come from a web page, did: set a token"
        )
    return None


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _sets_kill_switch(scope: Scope) -> bool:
    if scope["method"] != "POST" or scope["path"] != KILL_PATH:
        return False
    enabled = parse_qs(scope["query_string"].decode("latin-1")).get("enabled", [""])
    return enabled[-1].lower() in ("true", "1", "on", "yes", "t", "y")


def _too_many(wait_secs: float) -> Refusal:
    return Refusal(
        429,
        f"requests must come more slowly: try again in {wait_secs:.1f} s",
        (("retry-after", str(math.ceil(wait_secs))),),
    )


_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in refusal.headers),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _no_body(receive: Receive) -> Receive:
    """Return what says once that the body is over, and then whether the client has gone."""
    told = False

    async def read() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return read
