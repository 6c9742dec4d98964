"""One process for each instrument of an account, whatever state folders it was started with.

Two engines that trade the same instrument on one account take each other's positions for somebody
else's: entries are doubled, exits refused, and a position is left that neither closes. Each claim
is a name that the system gives to one process and takes back when that ends, however it ends; it
counts on one machine (a container with a network of its own is another).
"""

from __future__ import annotations

import hashlib
import socket
import time
from contextlib import ExitStack

from adapters.connections import Connection
from catalog.errors import ConfigError
from live.engine_request import EngineRequest

_WAIT_SECS = 2.0


def claim_account(request: EngineRequest, connection: Connection) -> ExitStack:
    """Claim what an engine trades on an account; what is returned gives it back when closed.

    Parameters
    ----------
    request : EngineRequest
        Whose instruments and name.
    connection : Connection
        Which account.

    Raises
    ------
    ConfigError
        If another process of this machine trades one of them, or gives its orders the same names.
    """
    assert connection.keys is not None
    claims = ExitStack()
    account = (request.venue.name, connection.environment, connection.http, connection.keys.values)
    wanted = [(f"instrument {one}", one) for one in request.traded]
    wanted.append((f"name {request.name}", f"orders {request.order_tag}"))
    deadline = time.monotonic() + _WAIT_SECS
    for what, name in wanted:
        # Nothing of the keys can be read from it.
        digest = hashlib.sha256(repr((account, name)).encode()).hexdigest()
        claim = claims.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        while not _bound(claim, f"\0levibot-{digest}"):
            if time.monotonic() >= deadline:
                claims.close()
                raise ConfigError(
                    f"{what} must belong to one engine of the account, another process trades with "
                    "it, maybe from another state folder: stop that one, or take others"
                )
            time.sleep(0.05)
    return claims


def _bound(claim: socket.socket, address: str) -> bool:
    try:
        claim.bind(address)
    except OSError:
        return False
    return True
