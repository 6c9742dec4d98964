"""How an exchange is reached: which one, where, and with whose keys, which are never shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from catalog.errors import ConfigError

type Environment = Literal["testnet", "live"]
"""Which of a venue's two exchanges: play money or real money."""

MASK = "***"


@dataclass(frozen=True, slots=True)
class Keys:
    """What an account is reached with; never printed.

    Parameters
    ----------
    values : tuple of str
        Key, secret and what else the venue asks for, in the order of `Venue.key_names`.
    """

    values: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        """Return a mask: a secret in a message would be one in a log."""
        return MASK

    def mask(self, text: str) -> str:
        """Return a text without the keys that it may contain."""
        for value in self.values:
            if value:
                text = text.replace(value, MASK)
        return text


@dataclass(frozen=True, slots=True)
class Connection:
    """How a venue is reached.

    Parameters
    ----------
    environment : {"testnet", "live"}
        Which exchange. Market data of a paper node come from ``live``.
    base_url : str, optional
        Address of another server that speaks the venue's protocol, such as
        ``http://127.0.0.1:8000``; REST and sockets are taken from it. None for the venue's own.
    keys : Keys, optional
        For orders; market data need none.
    account : str
        Number of the account, such as ``001``.
    """

    environment: Environment = "live"
    base_url: str | None = None
    keys: Keys | None = None
    account: str = "001"

    def __post_init__(self) -> None:
        """Refuse an address that is none.

        Raises
        ------
        ConfigError
            If it is not an http or https address.
        """
        if self.base_url is None:
            return
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"address of an exchange must look like http://127.0.0.1:8000, was "
                f"{self.base_url!r}"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                f"address of an exchange must have no name and password in it, that of "
                f"{parts.hostname} had: it is shown in messages; keys come from the environment"
            )

    @property
    def http(self) -> str | None:
        """Address of its REST interface, None for the venue's own."""
        return None if self.base_url is None else self.base_url.rstrip("/")

    def socket(self, path: str) -> str | None:
        """Return the address of a socket of `base_url`, None for the venue's own."""
        if self.http is None:
            return None
        return f"ws{self.http.removeprefix('http')}{path}"
