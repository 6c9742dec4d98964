"""What every calibration can do, and the checks that all of them share."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import DataError, IntegrityError

MIN_ROWS = 50
"""Fewer out-of-fold rows than this say nothing about a curve."""


class Calibration(Protocol):
    """A fitted map from a raw score to a probability; never falling in the score."""

    name: ClassVar[str]

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted."""

    def __call__(self, score: Float64Array) -> Float64Array:
        """Return the probability inside (0, 1) of each score in [0, 1], (n_rows,).

        NaN stays NaN. A row alone gives the same bits as the row in a batch.
        """

    def to_json(self) -> str:
        """Return the map as JSON; numbers survive the round trip bit for bit."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load a map, or raise `IntegrityError`."""


def check_rows(score: Float64Array, label: Float64Array, weight: Float64Array | None) -> None:
    """Refuse rows that no calibration can be fitted on.

    Raises
    ------
    DataError
        If there are fewer than `MIN_ROWS`, or a score, label or weight is not usable.
    """
    if len(score) < MIN_ROWS:
        raise DataError(
            f"calibration must have at least {MIN_ROWS} out-of-fold rows, had {len(score)}"
        )
    if not np.isfinite(score).all():
        raise DataError("scores to calibrate must be finite, some were not")
    if not np.isin(label, (0.0, 1.0)).all():
        raise DataError("labels to calibrate on must be 0 or 1, some were neither")
    if weight is not None and not (np.isfinite(weight).all() and (weight > 0.0).all()):
        raise DataError("weights to calibrate with must be positive, some were not")


def read_numbers(text: str, method: str, names: tuple[str, ...]) -> dict[str, float]:
    """Read a record of finite numbers beside its method.

    Raises
    ------
    IntegrityError
        If the text is no such record of this method.
    """
    try:
        record: dict[str, Any] = json.loads(text)
        found = record["method"]
        numbers = {name: float(record[name]) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"calibration must be a JSON record of {', '.join(names)}: {error!r}"
        ) from error
    if found != method:
        raise IntegrityError(f"calibration method must be {method!r}, was {found!r}")
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise IntegrityError(f"{name} of the {method} calibration must be finite, was {value}")
    return numbers
