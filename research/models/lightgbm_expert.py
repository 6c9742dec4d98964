"""Boosted trees (LightGBM; Ke et al., 2017) over the rows of all instruments together.

The package is imported only when a model is fitted or predicts, so that reading a bundle's
manifest or a configuration costs nothing.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import DataError, IntegrityError
from research.models.packed_trees import PackedTrees

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightgbm


PACKED_ROWS = 512
"""From as many rows on, laying out the trees anew costs less than LightGBM's own way. Live asks
for a handful at a time, and needs no compiler."""
COPIED_ROWS = 2048
"""Rows copied at a time."""


class LightGBMConfig(Config):
    """Settings of the boosted trees.

    The defaults were chosen on 2023 alone: the perpetuals' 15-minute bars, one bar ahead, five
    purged blocks of that year, two dozen settings tried there and on three forward folds. A few
    trees with random thresholds beat more and greedier ones (log-loss skill 0.0091 in the blocks
    with these, 0.0080 with 120 trees without them).

    Parameters
    ----------
    n_trees : int
        Boosting rounds. There is no early stopping: it would need rows of its own.
    learning_rate : float
        Shrinkage of each tree.
    num_leaves : int
        Leaves of each tree.
    min_rows_in_leaf : int
        Fewest rows in a leaf; large, because one row says next to nothing.
    max_bin : int
        Histogram bins of a feature.
    binning_rows : int
        Rows drawn to find the bins' borders; all rows are then binned.
    random_thresholds : bool
        Try one random threshold per feature and leaf instead of all (extremely randomised trees;
        Geurts et al., 2006): with little signal, the best of many thresholds is mostly luck.
    feature_frac : float
        Fraction of the features offered to each tree.
    row_frac : float
        Fraction of the rows that each tree sees, drawn anew for every tree.
    l2 : float
        Ridge penalty on leaf values.
    seed : int
        Seed of every draw.
    num_threads : int
        How many fits and other steps run beside one another, each on one thread. No result
        depends on it (tested), which is why it is no part of a model's identity.
    """

    n_trees: int = Field(default=60, ge=1, le=100_000)
    learning_rate: float = Field(default=0.07, gt=0.0, le=1.0)
    num_leaves: int = Field(default=31, ge=2, le=4096)
    min_rows_in_leaf: int = Field(default=500, ge=1)
    max_bin: int = Field(default=63, ge=3, le=255)
    binning_rows: int = Field(default=20_000, ge=100)
    random_thresholds: bool = True
    feature_frac: float = Field(default=0.5, gt=0.0, le=1.0)
    row_frac: float = Field(default=1.0, gt=0.0, le=1.0)
    l2: float = Field(default=10.0, ge=0.0)
    seed: int = Field(default=7, ge=0, le=2**31 - 1)
    num_threads: int = Field(default=2, ge=1, le=256)

    def identity_hash(self) -> str:
        """Return a hash of every setting that can change a result (not of num_threads)."""
        return self.model_copy(update={"num_threads": 1}).content_hash()

    def parameters(self) -> dict[str, object]:
        """Return LightGBM's own names for the settings.

        One thread for each fit: LightGBM's own threads wait for one another at every histogram,
        and on two busy cores took six times the processor time of one. `force_col_wise` makes
        histograms only of the features that a tree may use; naming either layout keeps LightGBM
        from choosing one by timing both.
        """
        return {
            "objective": "binary",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_rows_in_leaf,
            "feature_fraction": self.feature_frac,
            "bagging_fraction": self.row_frac,
            "bagging_freq": 1 if self.row_frac < 1.0 else 0,
            "lambda_l2": self.l2,
            "extra_trees": self.random_thresholds,
            "seed": self.seed,
            "deterministic": True,
            "force_col_wise": True,
            **self.binning(),
        }

    def binning(self) -> dict[str, object]:
        """Return the settings that must be the same for a Dataset and every model on it."""
        return {
            "max_bin": self.max_bin,
            "bin_construct_sample_cnt": self.binning_rows,
            "feature_pre_filter": False,
            "verbosity": -1,
            "num_threads": 1,
            "data_random_seed": self.seed,
        }


class BinnedRows:
    """Training rows binned once, on which several models can be fitted.

    Binning looks at the features of all rows given, never at a label, so the rows must be those
    of one training span.

    Parameters
    ----------
    table : (n_table, n_features) float64
        Feature values of all rows there are, NaN where undefined.
    rows : (n_rows,) int64
        Which of them are the training rows; the others are never read. They are read piece by
        piece, because a copy of all of them would take more memory than the model.
    label : (n_rows,) float64
        1 for up, 0 for down.
    weight : (n_rows,) float64
        Positive sample weights.
    names : sequence of str
        Feature names, in the columns' order.
    config : LightGBMConfig
        Settings.

    Raises
    ------
    DataError
        If a label is neither 0 nor 1, or a value is infinite.
    """

    def __init__(
        self,
        table: Float64Array,
        rows: Int64Array,
        label: Float64Array,
        weight: Float64Array,
        names: Sequence[str],
        config: LightGBMConfig,
    ) -> None:
        import lightgbm

        if not np.isin(label, (0.0, 1.0)).all():
            raise DataError("labels of training rows must be 0 or 1, some were neither")
        self.config = config
        self.label = label
        self.names = tuple(names)
        _quieten()
        self._data = lightgbm.Dataset(
            _sequence_class()(table, rows),
            label=label,
            weight=None if (weight == 1.0).all() else weight,
            feature_name=list(names),
            params=config.binning(),
            free_raw_data=True,
        )
        self._data.construct()

    def fit(self, rows: Int64Array | None = None) -> LightGBMExpert:
        """Fit one model on all rows or on the ascending row numbers `rows`.

        Raises
        ------
        DataError
            If the rows hold one class only.
        """
        import lightgbm

        label = self.label if rows is None else self.label[rows]
        if label.min() == label.max():
            raise DataError(
                f"training rows must hold ups and downs, all {len(label)} were {label[0]:.0f}"
            )
        _quieten()
        data = self._data if rows is None else self._data.subset(rows.tolist())
        booster = lightgbm.train(self.config.parameters(), data, self.config.n_trees)
        return LightGBMExpert(booster, self.names)


def _quieten() -> None:
    """Make LightGBM heed `verbosity` in this thread from its next call on.

    It keeps the level by thread and, when it reads batches, sets it only after its first warning.
    """
    import lightgbm

    lightgbm.Dataset(np.zeros((2, 1)), params={"verbosity": -1}).construct()


@cache
def _sequence_class() -> Any:
    """Return the class by which LightGBM reads some rows of a table batch by batch.

    Made once: a class made at every fit would hold its table until the next garbage collection.
    """
    import lightgbm

    class Rows(lightgbm.Sequence):
        batch_size = 2048

        def __init__(self, table: Float64Array, rows: Int64Array) -> None:
            self.table, self.rows = table, rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, place: Any) -> Float64Array:
            found: Float64Array = self.table[self.rows[place]]
            if np.isinf(found).any():
                raise DataError("features of training rows must be finite or NaN, some were not")
            return found

    return Rows


class LightGBMExpert:
    """A fitted model: feature rows in, raw probabilities out.

    Parameters
    ----------
    booster : lightgbm.Booster
        The trees.
    names : tuple of str
        Feature names, in the order of the columns that `predict` takes.
    """

    def __init__(self, booster: lightgbm.Booster, names: tuple[str, ...]) -> None:
        self._booster = booster
        self.names = names

    def predict(self, values: Float64Array, rows: Int64Array | None = None) -> Float64Array:
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
        """
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise DataError(
                f"features must have the shape (n_rows, {len(self.names)}), had {values.shape}"
            )
        rows = np.arange(len(values)) if rows is None else rows
        packed = self._packed if len(rows) >= PACKED_ROWS else None
        if packed is not None:
            return packed.predict(np.ascontiguousarray(values, dtype=np.float64), rows)
        # Piece by piece, because a copy of all rows would take more memory than the model.
        parts = np.array_split(rows, 1 + len(rows) // COPIED_ROWS)
        answers = [self._booster.predict(values[part], num_threads=1) for part in parts]
        return np.concatenate(answers, dtype=np.float64)

    @cached_property
    def _packed(self) -> PackedTrees | None:
        return PackedTrees.of_model(self._booster.dump_model())

    def to_text(self) -> str:
        """Return the model in LightGBM's text format."""
        return str(self._booster.model_to_string())

    @classmethod
    def from_text(cls, text: str, names: Sequence[str]) -> Self:
        """Load a model from LightGBM's text format.

        Raises
        ------
        IntegrityError
            If the text is no model or its features are not `names`.
        """
        import lightgbm

        try:
            booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise IntegrityError(f"model text must be LightGBM's, was refused: {error}") from error
        found = tuple(booster.feature_name())
        if found != tuple(names):
            raise IntegrityError(
                f"the model's features must be the manifest's {tuple(names)}, were {found}"
            )
        return cls(booster, found)
