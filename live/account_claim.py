"""One process for each instrument of an account, and what each counts with of its money.

Two engines that trade the same instrument on one account take each other's positions for somebody
else's: entries are doubled, exits refused, and a position is left that neither closes. And engines
that together count with more than the account holds spend it twice. So each process claims what it
trades and says what it counts with, whatever state folder it was started with.

A claim is a name that the system gives to one process and takes back when that ends, however it
ends: an abstract socket. It counts on one machine (a container with a network of its own is
another), and its users can see the names of engines and their cash, but nothing of the keys.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from adapters.connections import Connection
from catalog.errors import ConfigError
from live.engine_request import EngineRequest

_WAIT_SECS = 2.0
_LOCK_SECS = 10.0
_SOCKETS = Path("/proc/net/unix")


class Share(NamedTuple):
    """What an engine counts with of its account, USDT, and whether that is all there is."""

    cash: float
    takes_all: bool


class AccountClaim:
    """What one engine has claimed of an account; given back when closed, or the process ends.

    Parameters
    ----------
    request : EngineRequest
        Whose.
    account : str
        Digest of the account.
    """

    def __init__(self, request: EngineRequest, account: str) -> None:
        self._request = request
        self._account = account
        self._claims = ExitStack()
        self._share: socket.socket | None = None
        self._told = ""

    def __enter__(self) -> Self:
        """Keep it for as long as a block runs."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give it back."""
        self.close()

    def close(self) -> None:
        """Give everything back."""
        self._claims.close()
        if self._share is not None:
            self._share.close()

    def take(self, what: str, name: str) -> None:
        """Claim a thing.

        Raises
        ------
        ConfigError
            If another process has it.
        """
        digest = hashlib.sha256(repr((self._account, name)).encode()).hexdigest()
        claim = _bound(f"levibot-{digest}", _WAIT_SECS)
        if claim is None:
            self.close()
            raise ConfigError(
                f"{what} must belong to one engine of the account, another process trades with "
                "it, maybe from another state folder: stop that one, or take others"
            )
        self._claims.enter_context(claim)

    def share(self, cash: float) -> None:
        """Say what the engine counts with, USDT; it may be said again and again."""
        all_ = "a" if self._request.equity is None else ""
        told = f"{self._prefix}{self._request.name}-{max(round(cash * 100.0), 0)}{all_}"
        if told == self._told:
            return
        found = _bound(told, 0.0)
        if found is not None:
            before, self._share, self._told = self._share, found, told
            if before is not None:
                before.close()

    def others(self) -> dict[str, Share]:
        """Return what the other engines of the account count with, by name."""
        pattern = re.compile(rf"@{self._prefix}([A-Za-z0-9_-]+)-(\d+)(a?)$", re.MULTILINE)
        rows = pattern.findall(_SOCKETS.read_text(encoding="utf-8", errors="replace"))
        return {
            name: Share(int(cents) / 100.0, bool(all_))
            for name, cents, all_ in rows
            if name != self._request.name
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other engines of the account from looking and saying at the same moment.

        Raises
        ------
        ConfigError
            If one of them takes too long.
        """
        lock = _bound(f"{self._prefix}lock", _LOCK_SECS)
        if lock is None:
            raise ConfigError(
                f"engines of an account must start one after the other, another one has taken "
                f"more than {_LOCK_SECS:g} s: try again"
            )
        with lock:
            yield

    @property
    def _prefix(self) -> str:
        return f"levibot-{self._account}-"


def account_digest(request: EngineRequest, connection: Connection, identity: str = "") -> str:
    """Return what names an account and tells nothing of its keys.

    Parameters
    ----------
    request : EngineRequest
        Whose venue.
    connection : Connection
        Which server, and the keys.
    identity : str
        The exchange's own name of the account; without one its keys stand for it.
    """
    assert connection.keys is not None
    who = identity or connection.keys.values
    account = (request.venue.name, connection.environment, connection.http, who)
    return hashlib.sha256(repr(account).encode()).hexdigest()[:32]


def claim_account(
    request: EngineRequest, connection: Connection, identity: str = ""
) -> AccountClaim:
    """Claim what an engine trades on an account.

    Parameters
    ----------
    request, connection, identity
        As for `account_digest`.

    Raises
    ------
    ConfigError
        If another process of this machine trades one of them, or gives its orders the same names.
    """
    claim = AccountClaim(request, account_digest(request, connection, identity))
    for one in request.traded:
        claim.take(f"instrument {one}", one)
    claim.take(f"name {request.name}", f"orders {request.order_tag}")
    return claim


def _bound(name: str, wait_secs: float) -> socket.socket | None:
    """Return a socket of an abstract name; None if another process has it for too long."""
    deadline = time.monotonic() + wait_secs
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        try:
            claim.bind(f"\0{name}")
        except OSError:
            if time.monotonic() >= deadline:
                claim.close()
                return None
            time.sleep(0.05)
        else:
            return claim
