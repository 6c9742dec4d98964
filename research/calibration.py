"""From a model's score to a probability that means what it says: which map, and what it does.

The maps themselves are in `research.calibrators`. Here one is chosen, inside the rows that are
given, by log loss on blocks of time that the map was not fitted on; within one standard error the
simpler map is taken. What each map does at the ends is shown beside it: isotonic regression gives
the outermost rows one probability, so that their order is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from catalog.arrays import Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import DataError, IntegrityError
from research.calibrators import (
    MIN_ROWS,
    BetaCalibration,
    Calibration,
    IdentityCalibration,
    IsotonicCalibration,
    PlattCalibration,
    VennAbersCalibration,
    join_tails,
)
from research.nested import HeldOut, MethodLoss, simplest_within_error
from research.probabilities import equal_mean_weights, log_losses
from research.splits import inner_blocks

__all__ = [
    "MIN_ROWS",
    "Calibration",
    "CalibrationChoice",
    "CalibrationConfig",
    "CalibrationReport",
    "CalibrationRows",
    "IsotonicCalibration",
    "TailBehaviour",
    "calibration_from_json",
    "choose_calibration",
    "fit_calibration",
    "join_tails",
    "too_few",
]

METHODS = ("none", "platt", "beta", "isotonic")
"""What `auto` chooses from, the simplest first."""
TAIL_FRACTIONS = (0.005, 0.01, 0.05)
_KINDS: dict[str, type[Calibration]] = {
    kind.name: kind
    for kind in (
        IdentityCalibration,
        PlattCalibration,
        BetaCalibration,
        IsotonicCalibration,
        VennAbersCalibration,
    )
}


class CalibrationConfig(Config):
    """How scores become probabilities.

    Parameters
    ----------
    method : {"auto", "none", "platt", "beta", "isotonic", "venn_abers"}
        The shape of the curve; auto chooses between none, platt, beta and isotonic.
    inner_folds : int
        Contiguous blocks of the training span, each scored by a model fitted on the others, with
        purge and embargo. The out-of-fold scores are what the curve is fitted on.
    tail_frac : float
        Fraction of the rows at either end that share one score in isotonic regression.
    choice_folds : int
        Contiguous blocks of the out-of-fold rows, each calibrated by a curve fitted on the
        others: what a method is chosen and shown by.
    bounds : bool
        Whether the ends of a prediction's interval (`prob_low`, `prob_high`) are the Venn-Abers
        bounds of the fused probability in place of a binomial band; see `research.guidance`.
    """

    method: Literal["auto", "none", "platt", "beta", "isotonic", "venn_abers"] = "auto"
    inner_folds: int = Field(default=2, ge=2, le=50)
    tail_frac: float = Field(default=0.005, gt=0.0, lt=0.5)
    choice_folds: int = Field(default=5, ge=2, le=50)
    bounds: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationRows:
    """Rows to calibrate on: scores of models that had not seen them, and what happened.

    Parameters
    ----------
    score : (n_rows,) float64
        Out-of-fold raw probabilities; rows with NaN (no answer) are left out.
    label : (n_rows,) float64
        1 for up, 0 for down.
    weight : (n_rows,) float64, optional
        Positive; equal if absent. The scale does not matter.
    ts_init, ts_end : (n_rows,) int64
        When each row became known and the end of its label's span, UTC nanoseconds.
    """

    score: Float64Array
    label: Float64Array
    weight: Float64Array | None
    ts_init: Int64Array
    ts_end: Int64Array

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name))
            for name in ("score", "label", "weight", "ts_init", "ts_end")
            if getattr(self, name) is not None
        }
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns to calibrate on must be equally long, were {lengths}")

    def take(self, rows: Int64Array | NDArray[np.bool_]) -> CalibrationRows:
        """Return some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        return CalibrationRows(
            self.score[rows], self.label[rows], weight, self.ts_init[rows], self.ts_end[rows]
        )


@dataclass(frozen=True, slots=True)
class TailBehaviour:
    """What a map says at one end of the scores, and what happened there.

    Parameters
    ----------
    method, side : str
        Name of the map; ``low`` or ``high`` scores.
    fraction : float
        How much of the rows belongs to the tail (ties at its border included).
    rows : int
        Rows in it.
    predicted, observed : float
        Weighted mean of the held-out probabilities; weighted share of rises.
    distinct : int
        Different probabilities among them: 1 means that the map has flattened the tail.
    """

    method: str
    side: str
    fraction: float
    rows: int
    predicted: float
    observed: float
    distinct: int


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """Why a map was chosen.

    Parameters
    ----------
    chosen : str
        Name of the map.
    rows : int
        Rows with a score.
    methods : tuple of MethodLoss
        Held-out log loss of each map, the simplest first.
    tails : tuple of TailBehaviour
        Of each map, side and fraction, on held-out rows.
    distinct : dict of int
        Different probabilities that each map gives to all rows, fitted on all of them.
    """

    chosen: str
    rows: int
    methods: tuple[MethodLoss, ...]
    tails: tuple[TailBehaviour, ...]
    distinct: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Print the methods and their tails as two aligned tables."""
        lines = [
            f"calibration: {self.chosen}, of {self.rows:,} rows",
            f"{'method':<11}{'parameters':>11}{'log loss':>11}{'excess':>11}{'error':>10}"
            f"{'distinct':>10}",
        ]
        lines += [
            f"{m.name:<11}{m.n_parameters:>11}{m.log_loss:>11.6f}{m.excess:>11.2e}"
            f"{m.standard_error:>10.1e}{self.distinct[m.name]:>10,}"
            for m in self.methods
        ]
        lines.append(
            f"{'tail':<11}{'':>6}{'rows':>8}{'predicted':>11}{'observed':>10}{'distinct':>10}"
        )
        lines += [
            f"{t.method:<11}{t.side:<5}{t.fraction:>6.1%}{t.rows:>6,}{t.predicted:>10.4f}"
            f"{t.observed:>10.4f}{t.distinct:>10,}"
            for t in self.tails
        ]
        return "\n".join(lines)


class CalibrationChoice(NamedTuple):
    """A chosen map, why, and what it says of rows that it was not fitted on.

    Parameters
    ----------
    calibration : Calibration
        Fitted on all rows.
    report : CalibrationReport
        Of all that were tried.
    held_out : (n_rows,) float64
        Probabilities of the same method, each block by a map fitted on the other blocks; NaN
        where the score is. A fusion is fitted on these: on a map's own rows, a curve with many
        knots would look better than it is.
    """

    calibration: Calibration
    report: CalibrationReport
    held_out: Float64Array


def fit_calibration(
    method: str,
    score: Float64Array,
    label: Float64Array,
    weight: Float64Array | None = None,
    *,
    tail_frac: float = 0.005,
) -> Calibration:
    """Fit the map of one name (not ``auto``); errors as `IsotonicCalibration.fit`."""
    if method == IsotonicCalibration.name:
        return IsotonicCalibration.fit(score, label, weight, tail_frac=tail_frac)
    return _FITS[method](score, label, weight)


_FITS: dict[str, Callable[..., Calibration]] = {
    IdentityCalibration.name: IdentityCalibration.fit,
    PlattCalibration.name: PlattCalibration.fit,
    BetaCalibration.name: BetaCalibration.fit,
    VennAbersCalibration.name: VennAbersCalibration.fit,
}


def calibration_from_json(text: str) -> Calibration:
    """Load a map of any kind.

    Raises
    ------
    IntegrityError
        If the text is not what a map's `to_json` writes.
    """
    try:
        method = json.loads(text)["method"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"calibration must be a JSON record of a method: {error!r}") from error
    if not isinstance(method, str) or method not in _KINDS:
        raise IntegrityError(f"calibration method must be one of {sorted(_KINDS)}, was {method!r}")
    return _KINDS[method].from_json(text)


def choose_calibration(
    rows: CalibrationRows, config: CalibrationConfig, *, embargo_ns: int = 0
) -> CalibrationChoice:
    """Fit the configured map, or choose one by held-out log loss inside the given rows.

    Parameters
    ----------
    rows : CalibrationRows
        In any order; several instruments may share a time.
    config : CalibrationConfig
        Settings.
    embargo_ns : int
        Nanoseconds left out on both sides of a held-out block, beyond the labels' spans.

    Returns
    -------
    CalibrationChoice
        Unpacks into calibration, report, held_out.

    Raises
    ------
    DataError
        If there are too few rows, or a score, label or weight is not usable.
    """
    answered = ~np.isnan(rows.score)
    used = rows.take(answered)
    names = METHODS if config.method == "auto" else (config.method,)
    fitted = {name: _fit(name, used, config) for name in names}
    held_out = _held_out(names, used, config, embargo_ns)
    report = _report(fitted, held_out, used)
    everywhere = np.full(len(rows.score), np.nan)
    everywhere[answered] = held_out[names.index(report.chosen)]
    return CalibrationChoice(fitted[report.chosen], report, everywhere)


def too_few(rows: CalibrationRows, config: CalibrationConfig, *, embargo_ns: int = 0) -> str:
    """Return why there are too few answers to choose a map by; empty if there are enough.

    Every block is held out of a map that needs rows of its own; parameters are those of
    `choose_calibration`.
    """
    used = rows.take(~np.isnan(rows.score))
    if _least_left(used, config.choice_folds, embargo_ns) >= MIN_ROWS:
        return ""
    return (
        f"answered {len(used.score)} held-out rows, of which each of {config.choice_folds} blocks "
        f"must leave {MIN_ROWS} to calibrate on,"
    )


def _least_left(rows: CalibrationRows, n_blocks: int, embargo_ns: int) -> int:
    """Return how many rows are left where the fewest are, one block being held out."""
    if len(rows.score) < MIN_ROWS:
        return 0
    try:
        blocks = inner_blocks(rows.ts_init, rows.ts_end, n_blocks, embargo_ns)
    except DataError:  # a block without rows, or one that leaves none
        return 0
    return min(len(train) for train, _ in blocks)


def _fit(method: str, rows: CalibrationRows, config: CalibrationConfig) -> Calibration:
    return fit_calibration(method, rows.score, rows.label, rows.weight, tail_frac=config.tail_frac)


def _held_out(
    names: tuple[str, ...], rows: CalibrationRows, config: CalibrationConfig, embargo_ns: int
) -> Float64Array:
    """Return held-out probabilities, (n_methods, n_rows)."""
    found = np.empty((len(names), len(rows.score)))
    for train, held in inner_blocks(rows.ts_init, rows.ts_end, config.choice_folds, embargo_ns):
        others = rows.take(train)
        for at, name in enumerate(names):
            found[at, held] = _fit(name, others, config)(rows.score[held])
    return found


def _report(
    fitted: dict[str, Calibration], held_out: Float64Array, rows: CalibrationRows
) -> CalibrationReport:
    weight = equal_mean_weights(rows.weight, len(rows.score))
    losses = np.stack([log_losses(row, rows.label) for row in held_out])
    methods = HeldOut(tuple(fitted), losses, weight, rows.ts_init).measured(
        tuple(map_.n_parameters for map_ in fitted.values())
    )
    tails = tuple(
        tail
        for (name, map_), row in zip(fitted.items(), held_out, strict=True)
        for tail in _tails(name, map_, row, rows, weight)
    )
    return CalibrationReport(
        chosen=simplest_within_error(methods),
        rows=len(rows.score),
        methods=methods,
        tails=tails,
        distinct={name: len(np.unique(map_(rows.score))) for name, map_ in fitted.items()},
    )


def _tails(
    name: str,
    calibration: Calibration,
    held_out: Float64Array,
    rows: CalibrationRows,
    weight: Float64Array,
) -> list[TailBehaviour]:
    ordered = np.sort(rows.score)
    found = []
    for fraction in TAIL_FRACTIONS:
        count = max(1, int(len(ordered) * fraction))
        parts = {
            "low": rows.score <= ordered[count - 1],
            "high": rows.score >= ordered[-count],
        }
        for side, inside in parts.items():
            total = np.sum(weight[inside])
            found.append(
                TailBehaviour(
                    method=name,
                    side=side,
                    fraction=fraction,
                    rows=int(inside.sum()),
                    predicted=float(np.sum((weight * held_out)[inside]) / total),
                    observed=float(np.sum((weight * rows.label)[inside]) / total),
                    distinct=len(np.unique(calibration(rows.score[inside]))),
                )
            )
    return found
