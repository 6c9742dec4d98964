"""A fitted LightGBM model: rows in, raw probabilities out, without the lightgbm package.

A model is its text. It is asked through LightGBM's shared library (`lightgbm_library`) or, for
many rows, by trees laid out for that (`packed_trees`): the same bits.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from research.experts import ExpertCost, ExpertOutput
from research.mirror import Mirror
from research.models.contract import (
    ExpertRecord,
    RowStream,
    check_matrix,
    check_names,
    read_record,
    read_text,
    write_record,
    write_text,
)
from research.models.lightgbm_library import TreeModel
from research.models.packed_trees import PackedTrees
from research.probabilities import from_log_odds, log_odds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from research.features import FeatureMatrix


PACKED_ROWS = 512
"""From as many rows on, laying out the trees anew costs less than LightGBM's own way. Live asks
for a handful at a time, and needs no compiler."""
COPIED_ROWS = 2048
"""Rows copied at a time."""
MIRRORED_ROWS = 16_384
"""Rows whose mirror images are made at a time."""
MODEL_FILE, FIT_FILE = "model.txt", "fit.json"


class FitReport(ExpertRecord):
    """How a fit came to its number of trees.

    Parameters
    ----------
    rounds : int
        Trees of the model.
    ended_by : {"all trees", "early stopping", "time budget"}
        What decided their number. A model cut short by its time budget is not the one that its
        settings describe, and another run may cut it elsewhere.
    validation_rows : int
        Rows that early stopping looked at; 0 without it.
    validation_loss : float, optional
        Their mean log loss at the best number of trees.
    mirror : bool
        Whether the model saw every row's mirror image too, and is asked about both.
    """

    rounds: int
    ended_by: Literal["all trees", "early stopping", "time budget"] = "all trees"
    validation_rows: int = 0
    validation_loss: float | None = None
    mirror: bool = False


class LightGBMExpert:
    """A fitted model: feature rows in, raw probabilities out.

    Parameters
    ----------
    text : str
        The model in LightGBM's text format.
    report : FitReport, optional
        How it was fitted, where that is known.

    Raises
    ------
    IntegrityError
        If the text is no model.
    """

    name = "lightgbm"
    reach_bars = 0

    def __init__(self, text: str, report: FitReport | None = None) -> None:
        self._text = text
        self._model = TreeModel(text)
        self.names = self._model.names
        self.report = report or FitReport(rounds=self._model.rounds)
        self._mirror = Mirror.of(self.names) if self.report.mirror else None

    @property
    def cost(self) -> ExpertCost:
        """Leaf values and the splits above them, and the bytes of the text."""
        leaves = sum(
            int(line.partition("=")[2])
            for line in self._text.splitlines()
            if line.startswith("num_leaves=")
        )
        return ExpertCost(2 * leaves - self._model.rounds, len(self._text))

    def predict(self, matrix: FeatureMatrix, rows: Int64Array) -> ExpertOutput:
        """Answer some rows of a matrix; each depends on itself alone.

        Raises
        ------
        DataError
            If the matrix has other columns than the model.
        """
        check_matrix(self.name, self.names, matrix)
        values = matrix.values  # noqa: PD011 (an array, no frame)
        # During the warm-up a row is undefined throughout: an answer would be about nothing.
        found = np.where(matrix.valid[rows], self.score(values, rows), np.nan)
        return ExpertOutput.of_probability(found)

    def stream(self, n_instruments: int) -> RowStream:
        """Return a stream, which needs no state: its answers are the batch's, bit for bit."""
        return RowStream(
            n_instruments,
            len(self.names),
            lambda values: ExpertOutput.of_probability(self.score(values)),
        )

    def score(self, values: Float64Array, rows: Int64Array | None = None) -> Float64Array:
        """Return the raw probability of a rise for each row.

        Each row's answer depends on that row alone: batch and stream agree bit for bit.

        Parameters
        ----------
        values : (n_table, n_features) float64
            Feature values in the order of `names`, NaN where undefined.
        rows : (n_rows,) int64, optional
            Which of them to answer; all if absent.

        Returns
        -------
        (n_rows,) float64

        Raises
        ------
        DataError
            If the table has another shape.
        """
        self._model.check(values)
        rows = np.arange(len(values)) if rows is None else rows
        if self._mirror is None:
            return self._one_sided(values, rows)
        # Piece by piece, because mirror images of all rows would take more memory than the model.
        parts = np.array_split(rows, 1 + len(rows) // MIRRORED_ROWS)
        return np.concatenate([self._two_sided(values[part]) for part in parts])

    def _two_sided(self, values: Float64Array) -> Float64Array:
        """Return what half the difference of the log-odds of rows and their images says."""
        assert self._mirror is not None
        every = np.arange(len(values))
        one = log_odds(self._one_sided(values, every))
        other = log_odds(self._one_sided(self._mirror(values), every))
        return from_log_odds((one - other) / 2.0)

    def _one_sided(self, values: Float64Array, rows: Int64Array) -> Float64Array:
        packed = self._packed if len(rows) >= PACKED_ROWS else None
        if packed is not None:
            return packed.predict(np.ascontiguousarray(values, dtype=np.float64), rows)
        # Piece by piece, because a copy of all rows would take more memory than the model.
        parts = np.array_split(rows, 1 + len(rows) // COPIED_ROWS)
        return np.concatenate([self._model.predict(values[part]) for part in parts])

    def importances(
        self, values: Float64Array | None = None, rows: Int64Array | None = None
    ) -> pd.DataFrame:
        """Return what each feature did, the most important first.

        Parameters
        ----------
        values : (n_table, n_features) float64, optional
            Rows to explain; without them there is no column `shap`.
        rows : (n_rows,) int64, optional
            Which of them; all if absent.

        Returns
        -------
        DataFrame
            Indexed by feature. `gain`: loss that its splits took away in training, as a fraction
            of all features'. `shap`: mean absolute contribution to the log-odds of the rows.
        """
        import pandas as pd

        gains = self._model.gains()
        total = gains.sum()
        frame = pd.DataFrame(
            {"gain": gains / total if total > 0.0 else gains},
            index=pd.Index(self.names, name="feature"),
        )
        if values is None:
            return frame.sort_values("gain", ascending=False, kind="stable")
        frame["shap"] = np.abs(self.contributions(values, rows)[:, :-1]).mean(axis=0)
        return frame.sort_values("shap", ascending=False, kind="stable")

    def contributions(self, values: Float64Array, rows: Int64Array | None = None) -> Float64Array:
        """Return what each feature adds to the log-odds of each row, (n_rows, n_features + 1).

        Tree SHAP (Lundberg et al., 2020): the last column is what every row starts from, and a
        row's numbers add up to its log-odds. About a thousand times the work of an answer.
        """
        self._model.check(values)
        rows = np.arange(len(values)) if rows is None else rows
        parts = np.array_split(rows, 1 + len(rows) // COPIED_ROWS)
        found = np.concatenate([self._model.contributions(values[part]) for part in parts])
        if self._mirror is None:
            return found
        images = [self._model.contributions(self._mirror(values[part])) for part in parts]
        image = np.concatenate(images)
        # What a column of the image did is due to the column that it was made of.
        image[:, :-1] = image[:, self._mirror.partner]
        return np.asarray((found - image) / 2.0)

    @cached_property
    def _packed(self) -> PackedTrees | None:
        return PackedTrees.of_model(self._model.dump())

    def to_text(self) -> str:
        """Return the model in LightGBM's text format."""
        return self._text

    @classmethod
    def from_text(cls, text: str, names: Sequence[str], report: FitReport | None = None) -> Self:
        """Load a model from LightGBM's text format.

        Raises
        ------
        IntegrityError
            If the text is no model or its features are not `names`.
        """
        expert = cls(text, report)
        check_names(cls.name, expert.names, names)
        return expert

    def save(self, folder: Path) -> None:
        """Write the model and how it was fitted into a folder."""
        write_text(folder / MODEL_FILE, self._text)
        write_record(folder / FIT_FILE, self.report)

    @classmethod
    def load(cls, folder: Path, names: tuple[str, ...]) -> Self:
        """Load what `save` wrote.

        Raises
        ------
        IntegrityError
            If it is not that, or was fitted on other features than `names`.
        """
        report = read_record(folder / FIT_FILE, FitReport)
        return cls.from_text(read_text(folder / MODEL_FILE), names, report)
