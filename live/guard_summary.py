"""What the risk guard did in a run, for its metrics and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from catalog.timestamps import format_time
from strategies.guard_state import HOLDS, PERSON

if TYPE_CHECKING:
    import pandas as pd

    from strategies.risk_policy import RiskPolicy


def guard_metrics(
    events: pd.DataFrame, policy: RiskPolicy | None, instruments: Sequence[str]
) -> dict[str, Any]:
    """Return how often trading ended and why, and since when it waits for a person.

    Parameters
    ----------
    events : DataFrame
        The table `guard` of a run: ``ts``, ``kind``, ``level``, ``reason``, ``detail``.
    policy : RiskPolicy or None
        Its limits; None where there is no guard.
    instruments : sequence of str
        What is traded.

    Returns
    -------
    dict
        ``holds``, a count by reason; ``waits_since``, when the hold began that only a person
        releases and nobody did, UTC nanoseconds, None if there is none; ``idle_groups``, named
        groups of which fewer than two members are traded, so that they limit nothing.
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
    groups = {} if policy is None else policy.correlation_groups
    traded = set(instruments)
    return {
        "holds": dict(sorted(holds.items())),
        "waits_since": min(waits.values(), default=None),
        "idle_groups": [name for name, ones in groups.items() if len(traded & set(ones)) < 2],
    }


def guard_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return in words that the guard ended trading, or a group of it limits nothing."""
    if found is None:
        return []
    idle = ", ".join(found["idle_groups"])
    lines = []
    if idle:
        lines += ["", f"of these correlation groups fewer than two members are traded: {idle}"]
    if not found["holds"]:
        return lines
    told = ", ".join(f"{reason} {count}" for reason, count in found["holds"].items())
    since = found["waits_since"]
    end = (
        ""
        if since is None
        else (f"; since {format_time(since)} it waits for a person, and nothing is traded")
    )
    return [*lines, "", f"the risk guard ended trading: {told}{end}"]
