"""Combinatorial purged cross-validation of the whole pipeline, and the paths that it makes.

Each split is fitted and predicted as a fold of a walk-forward is: the same experts, calibration,
fusion and thresholds, all of them chosen within the split's training rows. Put together, the
splits give several predictions of every row by models that have not seen it, and so as many paths
over the whole span (López de Prado, 2018, chapter 12).

A path is no backtest of what could have been earned: its models were also fitted on what came
later. Their labels know nothing of the tested groups; their features may, as a sequence that
begins in a tested group and ends after the embargo reads its prices (not its labels). What paths
are for is the spread: how much of one backtest's result is owed to where its folds happen to lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from catalog.config import Config
from catalog.errors import ConfigError, DataError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from research.code_identity import split_code
from research.cross_validation import CombinatorialPurged, LabelSpans
from research.feature_store import FeatureStore
from research.features import WARMUP_BARS
from research.fit_job import FitOptions, starts_warm
from research.fold_jobs import FoldJobs
from research.fold_runs import kept_report, run_folds
from research.fold_store import FoldQuestion, FoldStore
from research.metrics import prediction_metrics
from research.predictions import hash_parts, stamp_predictions
from research.settings import predictor_spec
from research.splits import Fold
from research.training import one_blas_thread
from research.training_table import TrainingTable, build_table

if TYPE_CHECKING:
    import pandas as pd

    from catalog.arrays import Int64Array
    from research.estimates import Estimate
    from research.panel import Panel
    from research.parallel import Workers
    from research.prediction_types import PredictorSpec
    from research.settings import WalkForwardConfig
    from research.walkforward import Keep
    from research.walkforward_result import FoldReport


class CpcvConfig(Config):
    """How a span is divided into groups.

    The embargo and the fewest training rows are those of `ValidationConfig`.

    Parameters
    ----------
    n_groups : int
        Groups of equally many bars.
    n_test_groups : int
        Groups that each split tests.
    """

    n_groups: int = Field(default=6, ge=2, le=100)
    n_test_groups: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _check(self) -> CpcvConfig:
        try:
            CombinatorialPurged(self.n_groups, self.n_test_groups)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def splitter(self, embargo_ns: int = 0, spans: LabelSpans | None = None) -> CombinatorialPurged:
        """Return what divides the rows; the embargo is in nanoseconds."""
        return CombinatorialPurged(
            self.n_groups, self.n_test_groups, embargo=embargo_ns, spans=spans
        )


@dataclass(frozen=True, slots=True)
class CpcvSplit(Fold):
    """The rows of one split.

    Parameters
    ----------
    test_start, test_end : int
        Around all groups that are tested; what lies between them may train.
    groups : tuple of int
        Which are tested.
    """

    groups: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``split 1 (groups 0 and 2, 2024-03-25 00:00:00 to 2024-06-17 00:00:00]``."""
        groups = " and ".join(map(str, self.groups))
        span = f"{format_time(self.test_start)} to {format_time(self.test_end)}"
        return f"split {self.index} (groups {groups}, {span}]"


@dataclass(frozen=True, slots=True, eq=False)
class CpcvResult:
    """Out-of-sample predictions of every split, and the paths that they make.

    Parameters
    ----------
    splitter : CombinatorialPurged
        Which split tests which groups, and serves which path.
    splits : tuple of FoldReport
        How each split's fit went, in order; without metrics, which are the paths'.
    edges : (n_groups + 1,) int64
        Group `g` is ``(edges[g], edges[g + 1]]`` on ts_init, UTC nanoseconds.
    spec : PredictorSpec
        The question that the predictions of every path answer. It is not that of a walk-forward
        with the same settings: one is never taken for the other.
    data_hash : str
        Of the panel.
    synthetic : bool
        Whether any of the data was made up.
    load : callable
        Given a split's number, returns its predictions.
    metrics : tuple of dict of Estimate
        Of each path; keys as in `research.metrics.PREDICTION_METRICS`.
    seconds : dict of float
        Time spent by stage: features, fit, metrics.
    """

    splitter: CombinatorialPurged
    splits: tuple[FoldReport, ...]
    edges: Int64Array
    spec: PredictorSpec
    data_hash: str
    synthetic: bool
    load: Callable[[int], pd.DataFrame]
    metrics: tuple[dict[str, Estimate], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def n_paths(self) -> int:
        """How many paths there are."""
        return self.splitter.n_paths

    def path(self, index: int) -> pd.DataFrame:
        """Return one path: a prediction for every row by a model that has not seen it.

        Parameters
        ----------
        index : int
            From 0.

        Returns
        -------
        DataFrame
            As `WalkForwardResult.predictions`, sorted by time, then the panel's instruments, with
            the group as ``fold`` and the number of the split that answers as ``split``. Stamped
            with `spec`, so that `PrecomputedPredictions.from_frame` serves it.

        Raises
        ------
        ConfigError
            If there is no such path.
        DataError
            If a kept split cannot be read.
        """
        import pandas as pd

        if not 0 <= index < self.n_paths:
            raise ConfigError(f"a path must be one of 0 to {self.n_paths - 1}, was {index}")
        parts: dict[int, pd.DataFrame] = {}
        chosen = self.splitter.path_splits[index].tolist()
        for split in sorted(set(chosen)):
            frame = self.load(split)
            for group in (group for group, serves in enumerate(chosen) if serves == split):
                first, last = self.edges[group], self.edges[group + 1]
                part = frame[(frame["ts_init"] > first) & (frame["ts_init"] <= last)]
                parts[group] = part.assign(fold=group, split=split)
        joined = pd.concat([parts[group] for group in sorted(parts)], ignore_index=True)
        return stamp_predictions(joined, self.spec, self.data_hash)

    def to_json(self) -> dict[str, object]:
        """Return the layout, how every split went and what every path is worth, for JSON."""
        return {
            "n_groups": self.splitter.n_groups,
            "n_test_groups": self.splitter.n_test_groups,
            "embargo_ns": self.splitter.embargo,
            "edges": self.edges.tolist(),
            "spec_hash": self.spec.spec_hash,
            "data_hash": self.data_hash,
            "synthetic": self.synthetic,
            "splits": [
                {"groups": groups, **report.facts()}
                for groups, report in zip(self.splitter.test_groups, self.splits, strict=True)
            ],
            "paths": [
                {name: (one.value, one.low, one.high) for name, one in found.items()}
                for found in self.metrics
            ],
            "seconds": self.seconds,
        }


def cross_validate(
    panel: Panel,
    config: WalkForwardConfig,
    settings: CpcvConfig = CpcvConfig(),  # noqa: B008 (immutable)
    *,
    progress: Progress = no_progress,
    keep: Keep | None = None,
) -> CpcvResult:
    """Fit and predict every split, and measure every path.

    Parameters
    ----------
    panel : Panel
        All data; every row past the warm-up is tested.
    config : WalkForwardConfig
        As for `walk_forward`. Of its validation only embargo_bars and min_train_rows count.
    settings : CpcvConfig
        Groups.
    progress : Progress
        Told of the stages ``features``, ``folds`` (splits) and ``metrics``, and of the fits'.
    keep : Keep, optional
        Where splits are kept as soon as they are done, and features: in folders that are named
        after the hash of all that decides them. Those that are there are not made again; the
        predictions are the same bit for bit.

    Raises
    ------
    ConfigError
        If an expert starts warm: splits do not follow one another in time.
    DataError
        If a split has too few training rows, or cannot be kept.
    RunFailedError
        If a split fails, naming it, raised from the error that stopped it.
    """
    _check_cold(config)
    started = time.perf_counter()
    question = cpcv_question(panel, config, settings)
    splitter = settings.splitter(config.validation.embargo_bars * panel.interval_ns)
    count = splitter.get_n_splits()
    load: Callable[[int], pd.DataFrame]
    if keep is None:
        frames, reports, ready = _run_splits(panel, config, settings, progress)
        load = frames.__getitem__
    else:
        store = FoldStore(keep.folder / f"cpcv-{question.key[:32]}", question, keep.tell)
        ready = started
        if not store.holds(count):
            features = FeatureStore(keep.folder / "features", keep.tell)
            places = _Places(store, features, keep.workers)
            _, _, ready = _run_splits(panel, config, settings, progress, places)
        load, reports = store.load, [kept_report(store, split) for split in range(count)]
    fitted = time.perf_counter()
    result = CpcvResult(
        splitter=splitter,
        splits=tuple(reports),
        edges=_edges(splitter, load, panel.interval_ns),
        spec=question.spec,
        data_hash=panel.data_hash,
        synthetic=panel.synthetic,
        load=load,
    )
    result = replace(result, metrics=_measure(result, config, progress))
    result.seconds.update(
        features=ready - started, fit=fitted - ready, metrics=time.perf_counter() - fitted
    )
    return result


class _Places(NamedTuple):
    """Where splits and features are kept, and who fits those that are missing."""

    splits: FoldStore
    features: FeatureStore
    workers: Workers | None


def _run_splits(
    panel: Panel,
    config: WalkForwardConfig,
    settings: CpcvConfig,
    progress: Progress,
    places: _Places | None = None,
) -> tuple[list[pd.DataFrame], list[FoldReport], float]:
    """Run the splits that are not kept.

    Returns
    -------
    frames, reports : list
        Of all splits; empty where they are kept.
    ready : float
        When the features were there, on the clock of `time.perf_counter`.
    """
    matrix = None if places is None else places.features.matrix(panel, config, progress=progress)
    table = build_table(panel, config, progress=progress, matrix=matrix)
    splits: list[Fold] = [*cpcv_splits(table, config, settings)]
    ready = time.perf_counter()
    options = FitOptions(progress)
    if places is not None and places.workers is not None:
        FoldJobs(table, config, options, places.splits, places.workers).run(splits)
        return [], [], ready
    keep = None if places is None else places.splits
    frames, reports = run_folds(table, splits, config, options, keep=keep)
    return frames, reports, ready


def cpcv_splits(
    table: TrainingTable, config: WalkForwardConfig, settings: CpcvConfig
) -> list[CpcvSplit]:
    """Return the splits of a table's usable rows.

    Test rows are past the warm-up; training rows also have a known label.

    Raises
    ------
    ConfigError
        If there are fewer times than groups.
    DataError
        If there are no usable rows, or a split has too few to train on.
    """
    ts_init, least = table.matrix.ts_init, config.validation.min_train_rows
    usable = np.flatnonzero(table.matrix.valid)
    if not len(usable):
        raise DataError(
            f"the span must hold more bars than the warm-up of {WARMUP_BARS}; load more history"
        )
    spans = LabelSpans(ts_init[usable], table.labels.ts_end[usable])
    cv = settings.splitter(config.validation.embargo_bars * table.interval_ns, spans)
    splits = []
    for number, (train, test) in enumerate(cv.split()):
        trainable = usable[train][table.trainable[usable[train]]]
        tested = usable[test]
        split = CpcvSplit(
            index=number,
            test_start=int(ts_init[tested].min()) - table.interval_ns,
            test_end=int(ts_init[tested].max()),
            train=trainable,
            test=tested,
            purged=len(usable) - len(train) - len(test),
            groups=cv.test_groups[number],
        )
        if len(trainable) < least:
            raise DataError(
                f"{split.name} must have at least {least} training rows, had {len(trainable)}: of "
                f"{len(usable) - len(test)} outside of its groups {split.purged} are purged, by "
                f"the labels' spans and the embargo, and {len(train) - len(trainable)} have no "
                "label; load more history, or divide into other groups"
            )
        splits.append(split)
    return splits


def cpcv_question(panel: Panel, config: WalkForwardConfig, settings: CpcvConfig) -> FoldQuestion:
    """Return all that decides what the splits predict.

    Its specification is that of a walk-forward but for the part ``validation``.
    """
    base = FoldQuestion.of(panel, config, FitOptions())
    embargo = str(config.validation.embargo_bars)
    layout = hash_parts({"cpcv": settings.content_hash(), "embargo": embargo})
    spec = _cpcv_spec(config, panel, layout)
    own = {"validation": layout, "code of splits": split_code()}
    return FoldQuestion(spec, panel.data_hash, {**base.parts, **own})


def _cpcv_spec(config: WalkForwardConfig, panel: Panel, layout: str) -> PredictorSpec:
    spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
    parts = {**dict(spec.parts), "validation": layout}
    place = {"instruments": ",".join(spec.instruments), "bar": str(spec.interval_ns)}
    identity = hash_parts({**parts, **place})
    return replace(
        spec,
        spec_hash=identity,
        parts=tuple(sorted(parts.items())),
        model_version=f"cpcv-{identity[:12]}",
    )


def _check_cold(config: WalkForwardConfig) -> None:
    warm = [name for name, one in config.experts.chosen().items() if starts_warm(one)]
    if warm:
        raise ConfigError(
            f"experts must start cold in cross-validation, but experts.{warm[0]}.warm_start was "
            "true: splits do not follow one another in time, and what one has learned another "
            f"tests; set experts.{warm[0]}.warm_start=false"
        )


def _edges(
    splitter: CombinatorialPurged, load: Callable[[int], pd.DataFrame], interval_ns: int
) -> Int64Array:
    """Return where the groups begin and end, as the tested times say.

    Together the splits test every usable row, and the groups are a division of the times alone.
    """
    times: list[Int64Array] = []
    seen: set[int] = set()
    for number, groups in enumerate(splitter.test_groups):
        if set(groups) - seen:
            seen |= set(groups)
            times.append(load(number)["ts_init"].to_numpy(dtype=np.int64))
    tested = np.unique(np.concatenate(times))
    groups_of = splitter.groups_of(LabelSpans(tested, tested))
    ends = [int(tested[rows[-1]]) for rows in groups_of]
    return np.array([int(tested[0]) - interval_ns, *ends], dtype=np.int64)


def _measure(
    result: CpcvResult, config: WalkForwardConfig, progress: Progress
) -> tuple[dict[str, Estimate], ...]:
    found = []
    with one_blas_thread():
        for index in range(result.n_paths):
            progress("metrics", index, result.n_paths)
            frame = result.path(index)
            found.append(prediction_metrics(frame, **config.bootstrap.model_dump()))
    progress("metrics", result.n_paths, result.n_paths)
    return tuple(found)
