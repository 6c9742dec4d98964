"""From a panel to one fitted, calibrated model: the same path for a fold and for a bundle.

What a model used after `until` may know: rows whose label's span ends at or before `until` less
the embargo. Inside that span, contiguous blocks are held out in turn, with purge and embargo, to
get the scores on which the calibration is fitted; the model itself is then fitted on all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.calibration import CalibrationConfig, IsotonicCalibration
from research.features import (
    WARMUP_BARS,
    FeatureConfig,
    FeatureMatrix,
    compute_features,
    feature_table_hash,
)
from research.labels import LabelConfig, Labels, compute_labels
from research.metrics import BootstrapConfig
from research.models.lightgbm_expert import BinnedRows, LightGBMConfig, LightGBMExpert
from research.panel import Panel
from research.predictions import PredictorSpec, hash_parts, undefined_reason
from research.references import References
from research.splits import ValidationConfig, inner_blocks, training_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class WalkForwardConfig(Config):
    """Everything that decides what a model is, how it is tested and how that is measured.

    Parameters
    ----------
    features, label, model, calibration : Config
        What the model sees, what it predicts, how it is fitted and calibrated.
    validation : ValidationConfig
        Folds; its scheme, train_bars, embargo and min_train_rows also decide what one model
        (`train_until`) is trained on.
    bootstrap : BootstrapConfig
        Intervals of the metrics.
    """

    features: FeatureConfig = FeatureConfig()
    label: LabelConfig
    model: LightGBMConfig = LightGBMConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    validation: ValidationConfig
    bootstrap: BootstrapConfig = BootstrapConfig()


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTable:
    """Features and labels of a panel, row by row: instrument-major, time-sorted within.

    Parameters
    ----------
    matrix : FeatureMatrix
        Features, (n_rows, n_features).
    labels : Labels
        Labels of the same rows.
    last_sign : (n_rows,) float64
        Sign of the return of each row's own bar: -1, 0, 1 (0 for an instrument's first).
    interval_ns : int
        Length of a bar.
    data_hash : str
        Of the panel.
    synthetic : bool
        Whether any of the data was made up.
    """

    matrix: FeatureMatrix
    labels: Labels
    last_sign: Float64Array
    interval_ns: int
    data_hash: str
    synthetic: bool

    @property
    def trainable(self) -> NDArray[np.bool_]:
        """Rows past the warm-up with a known label, (n_rows,)."""
        return self.matrix.valid & ~np.isnan(self.labels.value)


@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """A model with its calibration and references, and what they were fitted on.

    Parameters
    ----------
    config : WalkForwardConfig
        Its settings.
    spec : PredictorSpec
        The question that it answers.
    expert : LightGBMExpert
        Feature rows in, raw probabilities out.
    calibration : IsotonicCalibration
        Raw probabilities in, calibrated ones out.
    references : References
        What it is compared with.
    n_rows : int
        Rows fitted on.
    train_start, train_end : int
        First ts_init and last ts_end of those rows, UTC nanoseconds.
    until : int
        The model may be used after this time, UTC nanoseconds.
    data_hash : str
        Of the panel fitted on.
    synthetic : bool
        Whether any of its data was made up.
    """

    config: WalkForwardConfig
    spec: PredictorSpec
    expert: LightGBMExpert
    calibration: IsotonicCalibration
    references: References
    n_rows: int
    train_start: int
    train_end: int
    until: int
    data_hash: str
    synthetic: bool


def predictor_spec(
    config: WalkForwardConfig,
    instruments: Sequence[str],
    interval_ns: int,
    model_version: str | None = None,
) -> PredictorSpec:
    """Return the identity of the predictor that a configuration describes, apart from any data.

    Parameters
    ----------
    config : WalkForwardConfig
        Settings; the number of threads and the bootstrap do not count.
    instruments : sequence of str
        In the panel's order.
    interval_ns : int
        Length of a bar.
    model_version : str, optional
        Written on every prediction; derived from the identity if absent.
    """
    parts = {
        "features": feature_table_hash(config.features),
        "label": config.label.content_hash(),
        "model": config.model.identity_hash(),
        "calibration": config.calibration.content_hash(),
        "validation": config.validation.content_hash(),
    }
    identity = hash_parts({**parts, "instruments": ",".join(instruments), "bar": str(interval_ns)})
    return PredictorSpec(
        instruments=tuple(instruments),
        interval_ns=interval_ns,
        horizon_bars=config.label.horizon_bars,
        warmup_bars=WARMUP_BARS,
        model_version=model_version or f"walkforward-{identity[:12]}",
        uses_funding=config.features.funding,
        spec_hash=identity,
        parts=tuple(sorted(parts.items())),
    )


def build_table(
    panel: Panel, config: WalkForwardConfig, *, progress: Progress = no_progress
) -> TrainingTable:
    """Compute features and labels of a panel."""
    matrix = compute_features(panel, config.features, progress=progress)
    labels = compute_labels(panel, config.label)
    signs = [
        np.sign(np.diff(bars.close, prepend=bars.close[:1])) if len(bars) else np.empty(0)
        for bars in panel.bars
    ]
    return TrainingTable(
        matrix,
        labels,
        np.concatenate(signs),
        panel.interval_ns,
        panel.data_hash,
        panel.synthetic,
    )


def train_until(
    panel: Panel, config: WalkForwardConfig, until: int, *, progress: Progress = no_progress
) -> FittedModel:
    """Fit one model on what was known at `until`.

    Parameters
    ----------
    panel : Panel
        Data; whatever became known after `until` is cut off first.
    config : WalkForwardConfig
        Settings.
    until : int
        UTC nanoseconds; the model may be used for rows known after it.

    Returns
    -------
    FittedModel
        Bit for bit the one that a walk-forward fits for a test block that starts at `until`.

    Raises
    ------
    ConfigError
        If `until` is not within the panel's bars.
    DataError
        If too few rows are left to train on.
    """
    last = max((int(bars.ts_init[-1]) for bars in panel.bars if len(bars)), default=until - 1)
    if until > last:
        raise ConfigError(
            f"until must not be after the last bar ({format_time(last)}), was {format_time(until)}"
        )
    table = build_table(panel.truncated(until), config, progress=progress)
    with one_blas_thread():
        return _fit_until(table, config, until, progress)


def _fit_until(
    table: TrainingTable, config: WalkForwardConfig, until: int, progress: Progress
) -> FittedModel:
    rows = np.flatnonzero(table.trainable & _allowed(table, config, until))
    if len(rows) < config.validation.min_train_rows:
        raise DataError(
            f"training until {format_time(until)} must have at least "
            f"{config.validation.min_train_rows} rows, had {len(rows)} past the warm-up; "
            "train until a later time or load more history"
        )
    return fit_rows(table, rows, config, until, progress=progress)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep matrix products on one thread: how they round depends on the number of threads.

    For the whole process, so enter it outside of any pool of workers.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _allowed(table: TrainingTable, config: WalkForwardConfig, until: int) -> NDArray[np.bool_]:
    return training_rows(
        table.matrix.ts_init, table.labels.ts_end, config.validation, table.interval_ns, until
    )


def fit_rows(
    table: TrainingTable,
    rows: Int64Array,
    config: WalkForwardConfig,
    until: int,
    *,
    progress: Progress = no_progress,
) -> FittedModel:
    """Fit the model, its calibration and its references on some rows of a table.

    Parameters
    ----------
    table : TrainingTable
        All rows; none but `rows` is looked at.
    rows : (n_train,) int64
        Ascending row numbers, all trainable.
    config : WalkForwardConfig
        Settings.
    until : int
        The model may be used after this time.
    progress : Progress
        Told when it begins and ends, under the stage ``fit``.
    """
    progress("fit", 0, 1)
    with StepPool(config.model.num_threads) as pool:
        model = submit_fit(pool, table, rows, config, until).result()
    progress("fit", 1, 1)
    return model


class StepPool(ThreadPoolExecutor):
    """Threads for the steps of fits; on an error, steps that have not begun never do.

    A step may wait for one that was submitted before it: steps begin in the order of submission,
    so what is waited for has begun.
    """

    def __exit__(self, *error: object) -> None:
        """Wait for what runs."""
        self.shutdown(wait=True, cancel_futures=error[0] is not None)


def submit_fit(
    pool: StepPool, table: TrainingTable, rows: Int64Array, config: WalkForwardConfig, until: int
) -> Future[FittedModel]:
    """Have the steps of `fit_rows` done beside one another, and beside those of other fits.

    Every step runs on one thread and none depends on another's timing, so that the result is the
    same for any number of threads. It becomes an error if any step fails.
    """
    prepared = pool.submit(_prepare, table, rows, config)
    references = pool.submit(_fit_references, table, rows)
    expert = pool.submit(lambda: prepared.result().binned.fit())
    scores = [
        pool.submit(_held_out_scores, prepared, table, rows, block)
        for block in range(config.calibration.inner_folds)
    ]

    def finish() -> FittedModel:
        found = prepared.result()
        score = np.empty(len(rows))
        for (_, held_out), part in zip(found.blocks, scores, strict=True):
            score[held_out] = part.result()
        tail_frac = config.calibration.tail_frac
        return FittedModel(
            config=config,
            spec=predictor_spec(config, table.matrix.instruments, table.interval_ns),
            expert=expert.result(),
            calibration=IsotonicCalibration.fit(
                score, found.binned.label, found.weight, tail_frac=tail_frac
            ),
            references=references.result(),
            n_rows=len(rows),
            train_start=int(table.matrix.ts_init[rows].min()),
            train_end=int(table.labels.ts_end[rows].max()),
            until=until,
            data_hash=table.data_hash,
            synthetic=table.synthetic,
        )

    return pool.submit(finish)


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """What all steps of one fit share: binned rows, their weights, and what is held out in turn."""

    binned: BinnedRows
    weight: Float64Array
    blocks: list[tuple[Int64Array, Int64Array]]


def _prepare(table: TrainingTable, rows: Int64Array, config: WalkForwardConfig) -> _Prepared:
    ts_init, ts_end = table.matrix.ts_init[rows], table.labels.ts_end[rows]
    embargo = config.validation.embargo_bars * table.interval_ns
    blocks = inner_blocks(ts_init, ts_end, config.calibration.inner_folds, embargo)
    weight = table.labels.weight[rows]
    weight = weight / weight.mean()  # so that penalties mean the same at every horizon
    binned = BinnedRows(
        table.matrix.values,
        rows,
        table.labels.value[rows],
        weight,
        table.matrix.names,
        config.model,
    )
    return _Prepared(binned, weight, blocks)


def _fit_references(table: TrainingTable, rows: Int64Array) -> References:
    features = table.matrix.values  # noqa: PD011 (an array, no frame)
    return References.fit(features, rows, table.labels.value[rows], table.last_sign[rows])


def _held_out_scores(
    prepared: Future[_Prepared], table: TrainingTable, rows: Int64Array, block: int
) -> Float64Array:
    """Score the rows of one inner block by a model fitted on the others, (n_held_out,)."""
    train, held_out = prepared.result().blocks[block]
    expert = prepared.result().binned.fit(train)
    features = table.matrix.values  # noqa: PD011 (an array, no frame)
    return expert.predict(features, rows[held_out])


def predict_rows(
    table: TrainingTable, rows: Int64Array, model: FittedModel, fold: int
) -> pd.DataFrame:
    """Predict some rows of a table.

    Parameters
    ----------
    table : TrainingTable
        All rows.
    rows : (n_test,) int64
        Row numbers, past the warm-up.
    model : FittedModel
        Fitted on none of them.
    fold : int
        Written beside each.

    Returns
    -------
    DataFrame
        As `WalkForwardResult.predictions`, sorted by time, then instrument.
    """
    import pandas as pd

    matrix = table.matrix
    rows = rows[np.lexsort((matrix.instrument[rows], matrix.ts_init[rows]))]
    values = matrix.values[rows]  # noqa: PD011 (an array, no frame)
    raw = model.expert.predict(values)
    names = np.array(matrix.instruments, dtype=object)
    return pd.DataFrame(
        {
            "ts_init": matrix.ts_init[rows],
            "instrument_id": names[matrix.instrument[rows]],
            "fold": np.full(len(rows), fold, dtype=np.int64),
            "raw_prob": raw,
            "prob_up": model.calibration(raw),
            "label": table.labels.value[rows],
            "forward_return": table.labels.forward_return[rows],
            **model.references.predict(values, table.last_sign[rows]),
            "degraded_reason": _reasons(values, matrix.names),
        }
    )


def _reasons(values: Float64Array, names: tuple[str, ...]) -> NDArray[np.object_]:
    """Return what is wrong with each row: mostly nothing."""
    reasons = np.full(len(values), "", dtype=object)
    for row in np.flatnonzero(np.isnan(values).any(axis=1)):
        reasons[row] = undefined_reason(values[row], names)
    return reasons
