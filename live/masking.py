"""Secrets of the environment, taken out of whatever people may read.

Whoever writes a log line, sends an alert or stores an error masks it there, so that nobody who
makes such a text must think of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "PASSPHRASE")
_ADDRESSES = "ALERT_URLS"
_SHORTEST_SECRET = 8
_HOST = re.compile(r"localhost|[a-z0-9-]+(\.[a-z0-9-]+)+")
_MASK = "***"


class Mask:
    """Takes the secrets that the environment held when it was made out of texts.

    Parameters
    ----------
    variables : mapping, optional
        The environment.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        found = set(_secrets(os.environ if variables is None else variables))
        # A short one may be a part of a longer one, the rest of which would stay.
        self._secrets = sorted(
            (one for one in found if len(one) >= _SHORTEST_SECRET), key=len, reverse=True
        )

    def __repr__(self) -> str:
        return f"Mask({_MASK})"

    def __call__(self, text: str) -> str:
        """Return a text without them."""
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text


def masked(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Return a text without the secrets that the environment holds now.

    Parameters
    ----------
    text : str
        Such as the last line that a process printed.
    variables : mapping, optional
        The environment.
    """
    return Mask(variables)(text)


def _secrets(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if any(word in name for word in _SECRET_WORDS):
            yield value
        elif _ADDRESSES in name:
            for address in value.split():
                yield from _address_secrets(address)


def _address_secrets(address: str) -> Iterator[str]:
    """Yield an address, and what of it may stand alone in an error: all but scheme and host."""
    yield address
    rest = address.partition("://")[2]
    for part in re.split(r"[/:@?&=#]+", rest):
        if not _HOST.fullmatch(part):
            yield part
            yield unquote(part)
    try:
        password = urlsplit(address).password
    except ValueError:
        return
    if password is not None:
        # One that looks like a host's name, too.
        yield password
