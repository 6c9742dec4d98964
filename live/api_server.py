"""`levibot live serve`: the control service on a socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from catalog.errors import ConfigError, DataError
from live.api import create_app
from live.api_connections import KEEP_ALIVE_SECS, MOST_CONNECTIONS, BoundedConnection
from live.api_door import TOKEN_VARIABLE, DoorConfig, is_loopback

DEFAULT_PORT = 8710
_MOST_HEADER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the service listens.

    Parameters
    ----------
    state : Path
        The state folder.
    host : str
        Name or address. One that other machines can reach needs a token.
    port : int
        0 takes a free one.
    tls_cert, tls_key : Path or None
        PEM files; without them the service speaks plain HTTP.
    door : DoorConfig
        Who may come in.
    """

    state: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    door: DoorConfig = field(default_factory=DoorConfig)

    def __post_init__(self) -> None:
        """Refuse to be reached by strangers.

        Raises
        ------
        ConfigError
            If others can reach the host and there is no token, or a TLS file lacks the other.
        """
        if self.door.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"without a token in {TOKEN_VARIABLE} the host must be this machine's own "
                f"(127.0.0.1, ::1 or localhost), was {self.host}: set a token "
                "(`openssl rand -hex 32`), or leave --host out"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError(
                "--tls-cert and --tls-key must come together, one of them was absent: give both"
            )
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"a TLS file must be there, {path} was not: check its path")

    @property
    def scheme(self) -> str:
        """Return http or https."""
        return "http" if self.tls_cert is None else "https"


def door_from_environment() -> DoorConfig:
    """Return who may come in, with the token of the environment; an empty one is none.

    Raises
    ------
    ConfigError
        If the token is too weak.
    """
    return DoorConfig(token=os.environ.get(TOKEN_VARIABLE) or None)


@dataclass(frozen=True, slots=True)
class Listening:
    """A server and the socket that it is to serve.

    Parameters
    ----------
    server : uvicorn.Server
        Ends in order where its `should_exit` is set.
    listening : socket.socket
        Bound, and taking connections.
    url : str
        How it is reached.
    """

    server: uvicorn.Server
    listening: socket.socket
    url: str

    def run(self) -> None:
        """Serve until SIGTERM, Ctrl-C, or `should_exit`."""
        with self.listening:
            self.server.run(sockets=[self.listening])


def serve(config: ServerConfig, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Parameters
    ----------
    config : ServerConfig
        Where.
    tell : callable
        Is given what a person should read: the address, and what protects it.

    Raises
    ------
    ConfigError
        If the host is no address of this machine.
    DataError
        If the port is taken.
    """
    found = listen(config)
    tell(f"the control service of {config.state} listens on {found.url}")
    for remark in _remarks(config):
        tell(remark)
    found.run()


def listen(config: ServerConfig) -> Listening:
    """Bind the socket and make the server.

    Raises
    ------
    ConfigError
        If the host is no address of this machine.
    DataError
        If the port is taken.
    """
    listening = _bound(config.host, config.port)
    host = f"[{config.host}]" if ":" in config.host else config.host
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config.state, config.door),
            http=BoundedConnection,
            loop="live.api_connections:ServiceLoop",
            ws="none",
            lifespan="off",
            # Addresses count for limits and in the audit log: nobody may choose theirs.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECS,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
    )
    return Listening(server, listening, f"{config.scheme}://{host}:{listening.getsockname()[1]}")


def _remarks(config: ServerConfig) -> list[str]:
    found = []
    if config.door.token is None:
        found.append(
            f"{TOKEN_VARIABLE} is not set: whoever is on this machine may use it, nobody else"
        )
    elif config.scheme == "http" and not is_loopback(config.host):
        found.append(
            "it speaks plain HTTP: the token can be read on the way; give --tls-cert and "
            "--tls-key, or put a proxy with TLS before it"
        )
    if not config.state.is_dir():
        found.append(f"there is no folder {config.state} yet; it is looked for at each request")
    return found


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(
            f"--host must be a name or address of this machine, was {host} ({error})"
        ) from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise DataError(
                f"--port must be free, {port} was taken: choose another (0 takes a free one)"
            ) from error
        raise ConfigError(
            f"--host and --port must be this machine's, were {host} and {port} ({error})"
        ) from error
    listening.listen(MOST_CONNECTIONS)
    return listening
