"""No calibration: the score is believed, within what can be paid for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

from catalog.arrays import Float64Array
from research.calibrators.protocol import check_rows, read_numbers
from research.probabilities import inside


@dataclass(frozen=True, slots=True)
class IdentityCalibration:
    """The score itself, clipped into `research.probabilities.inside`."""

    name: ClassVar[str] = "none"
    n_parameters: ClassVar[int] = 0

    @classmethod
    def fit(
        cls, score: Float64Array, label: Float64Array, weight: Float64Array | None = None
    ) -> Self:
        """Return it; the rows are checked as for any other calibration, and not used."""
        check_rows(score, label, weight)
        return cls()

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return the scores as probabilities, (n_rows,)."""
        return inside(score)

    def to_json(self) -> str:
        """Return its name as JSON."""
        return json.dumps({"method": self.name}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load it.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` writes.
        """
        read_numbers(text, cls.name, ())
        return cls()
