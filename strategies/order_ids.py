"""Names of orders that are the same in every run: who, what, when, for which instrument."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND

type OrderKind = Literal["E", "X", "F", "R", "S", "T", "L"]
"""Entry, exit, forced exit, rebalancing, stop, target, liquidation."""

MAX_TAG = 6
"""With a longer tag an identifier would not fit into the 24 characters that adapters leave."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def order_id(tag: str, kind: OrderKind, instrument_id: str, ts: int) -> str:
    """Return an identifier of at most 24 characters.

    Parameters
    ----------
    tag : str
        The strategy's tag, at most 6 characters; strategies of one account have different ones.
    kind : {"E", "X", "F", "R", "S", "T", "L"}
        There is at most one of each per instrument and time.
    instrument_id : str
        Its checksum becomes part of the identifier.
    ts : int
        Decision time, UTC nanoseconds; whole seconds count.
    """
    return f"{tag}-{kind}{_base36(ts // NS_PER_SECOND, 7)}-{_checksum(instrument_id)}"


def check_tag(tag: str, instruments: Sequence[str]) -> None:
    """Refuse a tag or instruments whose order identifiers would be too long or not unique.

    Raises
    ------
    ConfigError
        If the tag is not 1 to 6 letters or digits, or two instruments share a checksum.
    """
    if not (1 <= len(tag) <= MAX_TAG and tag.isascii() and tag.isalnum()):
        raise ConfigError(
            f"strategy tag must be 1 to {MAX_TAG} letters or digits, was {tag!r}: "
            f"it is part of every order's identifier"
        )
    sums: dict[int, str] = {}
    for name in instruments:
        other = sums.setdefault(zlib.crc32(name.encode()), name)
        if other != name:
            raise ConfigError(
                f"instruments of one strategy must have different checksums, {name} and {other} "
                f"have the same: trade them in two strategies"
            )


@lru_cache(maxsize=1024)
def _checksum(instrument_id: str) -> str:
    return _base36(zlib.crc32(instrument_id.encode()), 7)


@lru_cache(maxsize=16)
def _base36(number: int, width: int) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)).rjust(width, "0")
