"""What an expert is: rows of features in, raw probabilities with their uncertainty out.

An expert is fitted on a span, answers whole spans at once and bar by bar with the same numbers,
and can be saved and loaded without being able to run code. Nothing here imports a model's package.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.progress import Progress, no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from research.features import FeatureMatrix


@dataclass(frozen=True, slots=True, eq=False)
class ExpertOutput:
    """An expert's answers, row by row as asked.

    Parameters
    ----------
    prob_up : (n_rows,) float64
        Raw probability of a rise in (0, 1), not calibrated; NaN where there is no answer (too
        little history for a sequence, an input missing).
    mu : (n_rows,) float64
        Expected forward log return, in units of the volatility of 96 bars times the root of the
        horizon; NaN if the expert gives none.
    sigma : (n_rows,) float64
        Its scale, in the same units; NaN if the expert gives none. This is the aleatoric part of
        the uncertainty: what remains however well the model is known.
    epistemic : (n_rows,) float64
        Standard deviation of `prob_up` over the members of an ensemble (dropout masks); NaN if
        there is one member only. What more data could remove.
    """

    prob_up: Float64Array
    mu: Float64Array
    sigma: Float64Array
    epistemic: Float64Array

    @classmethod
    def of_probability(cls, prob_up: Float64Array) -> Self:
        """Return answers of an expert that knows nothing but a probability."""
        nothing = np.full(len(prob_up), np.nan)
        return cls(prob_up, nothing, nothing, nothing)

    @classmethod
    def none(cls, count: int) -> Self:
        """Return `count` rows without an answer."""
        return cls.of_probability(np.full(count, np.nan))

    @classmethod
    def concatenate(cls, parts: Sequence[ExpertOutput]) -> Self:
        """Join answers one behind the other."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.prob_up)


@dataclass(frozen=True, slots=True)
class ExpertCost:
    """What an expert costs to keep.

    Parameters
    ----------
    parameters : int
        Numbers that were fitted.
    size_bytes : int
        What it takes on disk and, about, in memory.
    """

    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FitContext:
    """What a fit is given beside its data and settings; nothing here may change its result.

    `previous` is the exception: a warm start is asked for by a setting and changes the result.

    Parameters
    ----------
    progress : Progress
        Told of the fit under the stage ``fit <name>``.
    threads : int
        Threads that the fit may use.
    checkpoint : Path, optional
        Folder in which an interrupted fit leaves what it needs to go on.
    previous : FittedExpert, optional
        What a warm start begins from.
    """

    progress: Progress = no_progress
    threads: int = 1
    checkpoint: Path | None = None
    previous: FittedExpert | None = None


class ExpertStream(Protocol):
    """An expert bar by bar: its state, explicitly."""

    def update(self, slot: int, codes: Int64Array, values: Float64Array) -> ExpertOutput:
        """Take the rows of one time and answer them.

        Parameters
        ----------
        slot : int
            ``ts_init // interval_ns``; larger than that of the last call.
        codes : (k,) int64
            Codes of the instruments that have a valid row, ascending.
        values : (k, n_features) float64
            Their rows.

        Returns
        -------
        ExpertOutput
            k answers, in the same order.
        """


class FittedExpert(Protocol):
    """A fitted model. See the module's description."""

    @property
    def name(self) -> str:
        """Name of the kind, such as ``lightgbm``: one of each may be in a fusion."""

    @property
    def reach_bars(self) -> int:
        """Bars of history that an answer needs beyond the features' own warm-up."""

    @property
    def cost(self) -> ExpertCost:
        """What it costs to keep."""

    def predict(self, matrix: FeatureMatrix, rows: Int64Array) -> ExpertOutput:
        """Answer some rows of a matrix, whose earlier rows of the same instrument may be used."""

    def stream(self, n_instruments: int) -> ExpertStream:
        """Return a stream that has seen nothing yet."""

    def save(self, folder: Path) -> None:
        """Write the expert's own files into an existing folder; never a pickle."""
