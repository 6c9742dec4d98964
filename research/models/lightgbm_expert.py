"""Boosted trees (LightGBM; Ke et al., 2017) over the rows of all instruments together.

How they are fitted; what is fitted is a `lightgbm_serving.LightGBMExpert`. The lightgbm package is
imported by a fit and by nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from research.experts import FitContext
from research.mirror import Mirror
from research.models.lightgbm_batches import quieten, sequence_class
from research.models.lightgbm_serving import FitReport, LightGBMExpert

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightgbm

    from research.training_table import TrainingTable

__all__ = ["BinnedRows", "LabelSpans", "LightGBMConfig", "LightGBMExpert", "fit"]


class LightGBMConfig(Config):
    """Settings of the boosted trees.

    The defaults were chosen on 2023 alone: the perpetuals' 15-minute bars, one bar ahead, five
    purged blocks of that year, two dozen settings tried there and on three forward folds. A few
    trees with random thresholds beat more and greedier ones (log-loss skill 0.0091 in the blocks
    with these, 0.0080 with 120 trees without them).

    Early stopping is off because it did not help there: four forward folds of two months each gave
    a mean skill of 0.0078 with 60 trees, 0.0075 with their number sought on the last fifth of the
    training rows and all rows fitted anew with it, and 0.0069 with the model that never saw that
    fifth. Hence `refit`.

    Parameters
    ----------
    n_trees : int
        Boosting rounds; the most there can be with early stopping.
    learning_rate : float
        Shrinkage of each tree.
    num_leaves : int
        Leaves of each tree.
    max_depth : int, optional
        Most splits from the root to a leaf. None: as many as `num_leaves` allows.
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
    mirror : bool
        Whether every row is shown once more in the mirror (`research.mirror`), and answers are
        half the difference of the log-odds of a row and of its mirror image: the model then cannot
        lean to one side. `min_rows_in_leaf` still counts rows of the market.
    row_frac : float
        Fraction of the rows that each tree sees, drawn anew for every tree.
    l2 : float
        Ridge penalty on leaf values.
    patience : int
        Early stopping: end once the log loss of an inner validation span has not fallen for this
        many trees, and keep as many trees as were best there. 0 is off.
    stopping_frac : float
        Share of the training rows, the last in time, that are that span. Rows before it whose
        labels look into it are left out while the number of trees is sought.
    refit : bool
        Whether all rows are then fitted with that number of trees; else the model that never saw
        the inner span is kept.
    time_budget_secs : float, optional
        Seconds after which a fit takes no further tree. Where it bites, the model depends on the
        machine and its load, and its report says so; keep it for the bounds of a search.
    seed : int
        Seed of every draw.
    """

    n_trees: int = Field(default=60, ge=1, le=100_000)
    learning_rate: float = Field(default=0.07, gt=0.0, le=1.0)
    num_leaves: int = Field(default=31, ge=2, le=4096)
    max_depth: int | None = Field(default=None, ge=1, le=64)
    min_rows_in_leaf: int = Field(default=500, ge=1)
    max_bin: int = Field(default=63, ge=3, le=255)
    binning_rows: int = Field(default=20_000, ge=100)
    random_thresholds: bool = True
    feature_frac: float = Field(default=0.5, gt=0.0, le=1.0)
    mirror: bool = False
    row_frac: float = Field(default=1.0, gt=0.0, le=1.0)
    l2: float = Field(default=10.0, ge=0.0)
    patience: int = Field(default=0, ge=0)
    stopping_frac: float = Field(default=0.2, gt=0.0, lt=1.0)
    refit: bool = True
    time_budget_secs: float | None = Field(default=None, gt=0.0)
    seed: int = Field(default=7, ge=0, le=2**31 - 1)

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a depth that is not limited: models keep the hash they had without one."""
        settings: dict[str, Any] = serialise(self)
        if settings["max_depth"] is None:
            del settings["max_depth"]
        return settings

    def identity_hash(self) -> str:
        """Return a hash of every setting that can change a result: all of them."""
        return self.content_hash()

    @property
    def reach(self) -> int:
        """Bars of history beyond the features' own: none."""
        return 0

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
            **({} if self.max_depth is None else {"max_depth": self.max_depth}),
            "min_data_in_leaf": self.min_rows_in_leaf * (2 if self.mirror else 1),
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


@dataclass(frozen=True, slots=True, eq=False)
class LabelSpans:
    """What each training row's label looks at: early stopping divides the rows by it.

    Parameters
    ----------
    ts_init, ts_end : (n_rows,) int64
        When each row became known and the end of its label's span, UTC nanoseconds.
    """

    ts_init: Int64Array
    ts_end: Int64Array

    def split(self, rows: Int64Array, frac: float) -> tuple[Int64Array, Int64Array]:
        """Cut the last `frac` of some rows off, by time.

        Parameters
        ----------
        rows : (n_rows,) int64
            Ascending places among the training rows.
        frac : float
            Share of them to cut off.

        Returns
        -------
        head, tail : (n_head,), (n_tail,) int64
            Ascending. No label of the head looks beyond the first time of the tail; rows in
            between are in neither.

        Raises
        ------
        DataError
            If one of them would be empty.
        """
        times = np.sort(self.ts_init[rows])
        cut = times[min(len(times) - 1, int((1.0 - frac) * len(times)))]
        tail = rows[self.ts_init[rows] >= cut]
        head = rows[self.ts_end[rows] <= cut]
        if not len(head):
            raise DataError(
                f"early stopping must leave rows to fit on before its last {frac:g} of the rows, "
                f"left none of {len(rows)}; load more history or lower stopping_frac"
            )
        return head, tail


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
    spans : LabelSpans, optional
        Of the training rows; early stopping needs it.

    Raises
    ------
    ConfigError
        If early stopping is asked for without `spans`.
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
        spans: LabelSpans | None = None,
    ) -> None:
        import lightgbm

        if not np.isin(label, (0.0, 1.0)).all():
            raise DataError("labels of training rows must be 0 or 1, some were neither")
        if config.patience and spans is None:
            raise ConfigError(
                "early stopping (patience above 0) must be given the spans of the labels, was "
                "given none; pass them or set patience to 0"
            )
        self.config = config
        self.label = label
        self.names = tuple(names)
        self._spans = spans
        mirror = Mirror.of(names) if config.mirror else None
        if mirror is not None:
            # The mirror images stand behind all rows, in the same order.
            label, weight = np.concatenate([label, 1.0 - label]), np.tile(weight, 2)
        quieten()
        self._data = lightgbm.Dataset(
            sequence_class()(table, rows, mirror),
            label=label,
            weight=None if (weight == 1.0).all() else weight,
            feature_name=list(names),
            params=config.binning(),
            free_raw_data=True,
        )
        self._data.construct()

    @classmethod
    def of_table(cls, table: TrainingTable, rows: Int64Array, config: LightGBMConfig) -> Self:
        """Bin the training rows `rows` of a table; their weights are scaled to a mean of 1.

        Penalties then mean the same at every horizon.
        """
        weight = table.labels.weight[rows]
        return cls(
            table.matrix.values,
            rows,
            table.labels.value[rows],
            weight / weight.mean(),
            table.matrix.names,
            config,
            LabelSpans(table.matrix.ts_init[rows], table.labels.ts_end[rows]),
        )

    def fit(
        self, rows: Int64Array | None = None, progress: Progress = no_progress
    ) -> LightGBMExpert:
        """Fit one model on all rows or on some.

        Parameters
        ----------
        rows : (n_fit,) int64, optional
            Ascending places among the training rows.
        progress : Progress
            Told the trees done, under the stage ``fit lightgbm``.

        Raises
        ------
        DataError
            If the rows hold one class only.
        """
        label = self.label if rows is None else self.label[rows]
        if label.min() == label.max():
            raise DataError(
                f"training rows must hold ups and downs, all {len(label)} were {label[0]:.0f}"
            )
        quieten()
        if self.config.patience:
            places = np.arange(len(self.label)) if rows is None else rows
            return self._fit_stopped(rows, places, progress)
        watch = _Watch(self.config.n_trees, self.config.time_budget_secs, progress)
        text = self._train(rows, self.config.n_trees, watch).model_to_string()
        return LightGBMExpert(
            text,
            FitReport(rounds=watch.rounds, ended_by=watch.ended_by, mirror=self.config.mirror),
        )

    def _fit_stopped(
        self, rows: Int64Array | None, places: Int64Array, progress: Progress
    ) -> LightGBMExpert:
        """Seek the number of trees on the rows before the last ones, then fit."""
        config, spans = self.config, self._spans
        assert spans is not None  # checked by the constructor
        head, tail = spans.split(places, config.stopping_frac)
        budget = config.time_budget_secs
        # Half of the time is kept for the model itself.
        share = budget / 2 if budget is not None and config.refit else budget
        watch = _Watch(config.n_trees, share, progress, config.patience)
        found = self._train(head, config.n_trees, watch, tail)
        report = FitReport(
            rounds=watch.best_rounds,
            ended_by=watch.ended_by,
            validation_rows=len(tail),
            validation_loss=watch.best_loss,
            mirror=self.config.mirror,
        )
        if not config.refit:
            text = found.model_to_string(num_iteration=watch.best_rounds)
            return LightGBMExpert(text, report)
        again = _Watch(watch.best_rounds, share, progress)
        text = self._train(rows, watch.best_rounds, again).model_to_string()
        cut = "time budget" in (watch.ended_by, again.ended_by)
        ended_by = "time budget" if cut else watch.ended_by
        return LightGBMExpert(
            text, report.model_copy(update={"rounds": again.rounds, "ended_by": ended_by})
        )

    def _train(
        self,
        rows: Int64Array | None,
        n_trees: int,
        watch: _Watch,
        tail: Int64Array | None = None,
    ) -> lightgbm.Booster:
        import lightgbm

        data = self._data if rows is None else self._data.subset(self._places(rows))
        watched = [] if tail is None else [self._data.subset(self._places(tail))]
        return lightgbm.train(
            {**self.config.parameters(), "metric": "binary_logloss"},
            data,
            n_trees,
            valid_sets=watched,
            callbacks=[watch],
        )

    def _places(self, rows: Int64Array) -> list[int]:
        """Return where some training rows and their mirror images stand, ascending."""
        images = [rows + len(self.label)] if self.config.mirror else []
        found: list[int] = np.concatenate([rows, *images]).tolist()
        return found


class _Watch:
    """Called by LightGBM after every tree: tells the progress and says when to end.

    Parameters
    ----------
    n_trees : int
        Trees asked for.
    budget_secs : float, optional
        Seconds after which there is no further tree.
    progress : Progress
        Told the trees done.
    patience : int
        Trees without a lower validation loss after which there is no further one; 0 is never.
    """

    def __init__(
        self, n_trees: int, budget_secs: float | None, progress: Progress, patience: int = 0
    ) -> None:
        self._n_trees = n_trees
        self._deadline = None if budget_secs is None else time.monotonic() + budget_secs
        self._progress = progress
        self._patience = patience
        self.rounds = 0
        self.best_rounds = 0
        self.best_loss: float | None = None
        self.ended_by: Literal["all trees", "early stopping", "time budget"] = "all trees"

    def __call__(self, environment: lightgbm.callback.CallbackEnv) -> None:
        """Look at one more tree."""
        from lightgbm.callback import EarlyStopException

        self.rounds = environment.iteration + 1
        losses = environment.evaluation_result_list or []
        self._progress("fit lightgbm", self.rounds, self._n_trees)
        if self._patience:
            loss = float(losses[0][2])
            if self.best_loss is None or loss < self.best_loss:
                self.best_rounds, self.best_loss = self.rounds, loss
        if self.rounds == self._n_trees:
            return
        if self._patience and self.rounds - self.best_rounds >= self._patience:
            self.ended_by = "early stopping"
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.ended_by = "time budget"
        else:
            return
        self._progress("fit lightgbm", self._n_trees, self._n_trees)
        raise EarlyStopException(environment.iteration, losses)


def fit(
    table: TrainingTable, rows: Int64Array, config: LightGBMConfig, context: FitContext
) -> LightGBMExpert:
    """Fit one model on some rows of a table.

    Parameters
    ----------
    table : TrainingTable
        All rows; none but `rows` is looked at.
    rows : (n_rows,) int64
        Ascending row numbers, all trainable.
    config : LightGBMConfig
        Settings.
    context : FitContext
        Told of the progress; a fit takes one thread.

    Raises
    ------
    DataError
        If the rows hold one class only, or a value is infinite.
    """
    return BinnedRows.of_table(table, rows, config).fit(progress=context.progress)
