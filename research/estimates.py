"""A number with the interval that its sampling noise leaves open."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A value and the ends of its interval, in the unit of the quantity.

    `low` and `high` are NaN when no interval could be made (for instance one day of data, which
    leaves nothing to resample), never a copy of the value.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Return ``{value, low, high}`` for JSON, with None in place of NaN."""
        return {
            name: None if number != number else float(number)
            for name, number in zip(self._fields, self, strict=True)
        }

    def __str__(self) -> str:
        """Print the value and its interval with no more digits than the interval supports."""
        if self.high != self.high or self.low != self.low:
            return f"{self.value:.4g}"
        digits = interval_digits(self.high - self.low)
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interval_digits(width: float) -> int:
    """Return how many decimals an interval of this width supports: two digits of its width."""
    if not 0.0 < width < float("inf"):
        return 4
    decimals = 1
    while width * 10.0**decimals < 10.0 and decimals < 10:
        decimals += 1
    return decimals
