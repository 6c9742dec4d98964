"""What the risk guard did in a run, for its metrics and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from catalog.timestamps import format_time
from strategies.guard_state import HOLDS, PERSON

if TYPE_CHECKING:
    import pandas as pd


def guard_metrics(events: pd.DataFrame) -> dict[str, Any]:
    """Return how often trading ended and why, and since when it waits for a person.

    Parameters
    ----------
    events : DataFrame
        The table `guard` of a run: ``ts``, ``kind``, ``level``, ``reason``, ``detail``.

    Returns
    -------
    dict
        ``holds``, a count by reason, and ``waits_since``: when the hold began that only a person
        releases and nobody did, UTC nanoseconds; None if there is none.
    """
    holds: Counter[str] = Counter()
    waits: dict[str, int] = {}
    columns = (events[name].tolist() for name in ("ts", "kind", "reason"))
    for ts, kind, reason in zip(*columns, strict=True):
        if kind == "hold":
            holds[reason] += 1
            if HOLDS[reason] == PERSON:
                waits[reason] = ts
        elif kind == "release":
            for one in reason.split():
                waits.pop(one, None)
    return {"holds": dict(sorted(holds.items())), "waits_since": min(waits.values(), default=None)}


def guard_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return in words that the guard ended trading; nothing where it never did."""
    if found is None or not found["holds"]:
        return []
    told = ", ".join(f"{reason} {count}" for reason, count in found["holds"].items())
    since = found["waits_since"]
    end = (
        ""
        if since is None
        else (f"; since {format_time(since)} it waits for a person, and nothing is traded")
    )
    return ["", f"the risk guard ended trading: {told}{end}"]
