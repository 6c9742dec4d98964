"""How many predictions are degraded, and why, in few words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_KINDS = (
    (re.compile(r"^(undefined features): .*$"), r"\1"),
    (re.compile(r"^(.*) is \S+ bars old, more than \S+$"), r"\1 is too old"),
    (re.compile(r"^no bar of .*$"), "no bar of another instrument"),
)
"""From what is said of one row to what all rows of its kind have in common."""


@dataclass(frozen=True, slots=True)
class DegradedShare:
    """How many predictions are marked degraded: strategies take no position on them.

    They count in every prediction metric, because they are what would have been said.

    Parameters
    ----------
    frac : float
        Degraded ones, of all.
    reasons : dict of str to float
        Those of each kind of reason, of all, the largest first. A prediction may have several
        reasons, so they may add up to more than `frac`.
    """

    frac: float
    reasons: dict[str, float]

    @classmethod
    def of(cls, reasons: Iterable[str]) -> DegradedShare:
        """Count reasons, one a prediction, empty where it is not degraded.

        Returns
        -------
        DegradedShare
            NaN of no predictions.
        """
        counted = Counter(reasons)
        total = counted.total()
        if not total:
            return cls(float("nan"), {})
        kinds: Counter[str] = Counter()
        for text, count in counted.items():
            for kind in {_kind(part) for part in text.split("; ") if part}:
                kinds[kind] += count
        # Equal shares by name, so that the same run tells the same.
        ordered = sorted(kinds.items(), key=lambda one: (-one[1], one[0]))
        return cls(1.0 - counted[""] / total, {kind: count / total for kind, count in ordered})

    def as_dict(self) -> dict[str, Any]:
        """Return both for JSON."""
        return {"degraded_frac": self.frac, "degraded_reasons": dict(self.reasons)}

    def __str__(self) -> str:
        """Print one line."""
        if not self.reasons:
            return "degraded: none"
        told = ", ".join(f"{kind} {share:.2%}" for kind, share in self.reasons.items())
        return f"degraded: {self.frac:.2%} ({told})"


def _kind(reason: str) -> str:
    for pattern, kind in _KINDS:
        if pattern.match(reason):
            return pattern.sub(kind, reason)
    return reason
