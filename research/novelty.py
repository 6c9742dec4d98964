"""How much a headline is unlike those before it.

Novelty is 1 less the largest resemblance (Broder, 1997: shared words by all words of both) to any
headline that became known in the `MEMORY_NS` before, of the last `MEMORY_HEADLINES` at most. Only
headlines that came earlier are looked at, so the value is known with the headline itself. It is
exactly 0 for a headline with the same words as one before.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

import numpy as np

from catalog.arrays import Float64Array

MEMORY_NS = 3 * 24 * 3_600_000_000_000
MEMORY_HEADLINES = 256
_WORD = re.compile(r"\w+")


class NoveltyMeter:
    """Measures headlines in the order in which they become known.

    A meter that has measured the headlines of the last `MEMORY_NS` measures as one that has
    measured all of them. One meter serves all sources: a story told twice is new once.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[int, frozenset[str]]] = deque(maxlen=MEMORY_HEADLINES)

    def measure(self, ts_init: int, headline: str) -> float:
        """Return the novelty of a headline, in [0, 1], and remember it.

        Parameters
        ----------
        ts_init : int
            When it became known, UTC nanoseconds; not before the last one's.
        headline : str
            The text.
        """
        # A text without words (symbols alone) resembles none but itself.
        words = frozenset(_WORD.findall(headline.casefold())) or frozenset((headline,))
        while self._recent and self._recent[0][0] <= ts_init - MEMORY_NS:
            self._recent.popleft()
        closest = 0.0
        for _, other in self._recent:
            shared = len(words & other)
            if shared:
                closest = max(closest, shared / (len(words) + len(other) - shared))
        self._recent.append((ts_init, words))
        return 1.0 - closest


def novelties(ts_init: Iterable[int], headlines: Iterable[str]) -> Float64Array:
    """Return the novelty of every headline of a sequence sorted by `ts_init`, (n,) float64."""
    meter = NoveltyMeter()
    pairs = zip(ts_init, headlines, strict=True)
    return np.array([meter.measure(int(ts), str(text)) for ts, text in pairs], dtype=np.float64)
