"""How often slow inputs come in the ordinary course, and from what age on they say nothing."""

from __future__ import annotations

from typing import NamedTuple

from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR


class Tempo(NamedTuple):
    """How often a slow input comes in the ordinary course, and how often it may fail to.

    Parameters
    ----------
    period_ns : int
        Time between two records in the ordinary course, nanoseconds.
    periods : int
        Age beyond which there is no position, in periods: from there on the input's features are
        undefined, too (`research.groups.slow`).
    """

    period_ns: int
    periods: int

    @property
    def limit_ns(self) -> int:
        """The greatest age."""
        return self.period_ns * self.periods


TEMPOS = {
    "onchain_": Tempo(NS_PER_DAY, 3),
    "dvol_": Tempo(NS_PER_HOUR, 12),
    "fear_greed_": Tempo(NS_PER_DAY, 3),
    "news_": Tempo(NS_PER_DAY, 3),
}
"""Of each kind of slow input, by what its columns begin with. Daily series may miss two days (an
outage over a weekend), the hourly one half a day. Headlines have no period; a whole day without
one is rare, three are a source that is dead."""

SLOW_PREFIXES = tuple(TEMPOS)
"""Columns made of slow series."""
