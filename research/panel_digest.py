"""The hash of what a panel holds, beside that of what was read.

`Panel.data_hash` says which stored content a panel was made from. A panel that was changed since
(shuffled, cut, made up from another) may carry it along; whatever keeps results under the hash of
what decided them takes this one, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import Ohlcv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from research.panel import Panel

_BARS = ("ts_init", *Ohlcv._fields)
_FLOW = (
    *("ts_init", "quote_volume", "trade_count"),
    *("taker_buy_volume", "taker_buy_quote_volume"),
)
_PARTS = (
    ("funding", ("ts_init", "value")),
    ("flow", _FLOW),
    ("minutes", _BARS),
    ("series", ("ts_init", "value", "extra")),
)
"""What a panel holds beside its bars, and the columns of each."""


def panel_digest(panel: Panel) -> str:
    """Return the SHA-256 of all that a panel holds, as 64 hex digits.

    Bars, funding, order flow, minutes and slow series count, each with the name that it has; the
    panel's own `data_hash` does not.
    """
    digest = hashlib.sha256()
    for name, columns in _columns(panel):
        digest.update(f"{name} {len(columns[0])};".encode())
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _columns(panel: Panel) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Yield the name of everything that a panel holds, and its columns."""
    for bars in panel.bars:
        yield f"bars {bars.instrument_id}", _of(bars, _BARS)
    for part, names in _PARTS:
        for key, one in sorted(getattr(panel, part).items()):
            yield f"{part} {key}", _of(one, names)


def _of(one: object, names: tuple[str, ...]) -> list[NDArray[Any]]:
    found = [getattr(one, name) for name in names]
    return [column for column in found if column is not None]
