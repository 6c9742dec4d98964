"""Fit a fusion on held-out answers of its experts, and choose its method inside those rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError
from research.calibration import CalibrationReport, CalibrationRows, choose_calibration
from research.fusion import DEFAULT, METHODS, REGIMES, Fusion, FusionConfig
from research.nested import HeldOut, MethodLoss
from research.penalised_logistic import Prior, WeightedRows, fit_logistic
from research.probabilities import equal_mean_weights, log_losses, log_odds
from research.splits import inner_blocks

MIN_ROWS = 100
"""Fewer rows than this say nothing about weights."""
SILENCE = 1.0
"""A weak pull of learned weights to zero, as of one row of log-odds 2. Only an expert that says
next to nothing feels it: its weight would else stay where the prior has put it, and its absence
would be made up for without a reason."""
_INTERCEPT_PRIOR = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class FusionRows:
    """Answers of experts on rows that they were not fitted or calibrated on, and what happened.

    Parameters
    ----------
    experts : tuple of str
        Names of the columns.
    probabilities : (n_rows, n_experts) float64
        Calibrated (`research.calibration.CalibrationChoice.held_out`); NaN = missing.
    label : (n_rows,) float64
        1 for up, 0 for down.
    weight : (n_rows,) float64, optional
        Positive; equal if absent.
    regime : (n_rows,) float64, optional
        -1, 0, 1 or NaN; without it the method regime cannot be fitted.
    ts_init, ts_end : (n_rows,) int64
        When each row became known and the end of its label's span, UTC nanoseconds.
    """

    experts: tuple[str, ...]
    probabilities: Float64Array
    label: Float64Array
    weight: Float64Array | None
    regime: Float64Array | None
    ts_init: Int64Array
    ts_end: Int64Array

    def take(self, rows: Int64Array | NDArray[np.bool_]) -> FusionRows:
        """Return some of the rows."""
        return FusionRows(
            self.experts,
            self.probabilities[rows],
            self.label[rows],
            None if self.weight is None else self.weight[rows],
            None if self.regime is None else self.regime[rows],
            self.ts_init[rows],
            self.ts_end[rows],
        )


@dataclass(frozen=True, slots=True)
class ExpertShare:
    """What one expert alone is worth, and what it got.

    Parameters
    ----------
    name : str
        Of the expert.
    answered : float
        Fraction of the rows with an answer.
    log_loss : float
        Weighted mean over all rows, nats; the base rate stands in where it is missing.
    weight : float
        Its mean share in the chosen fusion.
    """

    name: str
    answered: float
    log_loss: float
    weight: float


@dataclass(frozen=True, slots=True)
class FusionReport:
    """Why a fusion was chosen.

    Parameters
    ----------
    chosen : str
        Its method.
    rows : int
        Rows on which at least one expert answered.
    methods : tuple of MethodLoss
        Held-out log loss of each method before recalibration, the simplest first.
    experts : tuple of ExpertShare
        Each expert alone, and its share.
    correlation : tuple of tuple of float
        Of the experts' log-odds, where both have answered; NaN where one is constant.
    calibration : CalibrationReport
        How the fused probability was calibrated once more (chosen: none, if it was not).
    """

    chosen: str
    rows: int
    methods: tuple[MethodLoss, ...]
    experts: tuple[ExpertShare, ...]
    correlation: tuple[tuple[float, ...], ...]
    calibration: CalibrationReport

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON, with None in place of NaN."""
        record = asdict(self)
        record["correlation"] = [
            [None if value != value else value for value in row] for row in self.correlation
        ]
        return record

    def __str__(self) -> str:
        """Print methods and experts as two aligned tables."""
        lines = [
            f"fusion: {self.chosen}, recalibrated by {self.calibration.chosen}, of "
            f"{self.rows:,} rows",
            f"{'method':<12}{'parameters':>11}{'log loss':>11}{'excess':>11}{'error':>10}",
        ]
        lines += [
            f"{m.name:<12}{m.n_parameters:>11}{m.log_loss:>11.6f}{m.excess:>11.2e}"
            f"{m.standard_error:>10.1e}"
            for m in self.methods
        ]
        lines.append(f"{'expert':<12}{'answered':>11}{'log loss':>11}{'weight':>11}")
        lines += [
            f"{e.name:<12}{e.answered:>11.1%}{e.log_loss:>11.6f}{e.weight:>11.3f}"
            for e in self.experts
        ]
        return "\n".join(lines)


class FusionChoice(NamedTuple):
    """A chosen fusion, why, and what it says of rows that it was not fitted on.

    Parameters
    ----------
    fusion : Fusion
        Fitted on all rows.
    report : FusionReport
        Of all methods that were tried.
    held_out : (n_rows,) float64
        Probabilities of the same method (and recalibration), each block by a fusion fitted on
        the other blocks; NaN where no expert answered.
    tried : dict of Fusion
        Every method that was tried, fitted on all rows, without recalibration.
    """

    fusion: Fusion
    report: FusionReport
    held_out: Float64Array
    tried: dict[str, Fusion]


def fit_fusion(rows: FusionRows, config: FusionConfig, *, embargo_ns: int = 0) -> FusionChoice:
    """Fit the configured fusion, or choose one by held-out log loss inside the given rows.

    Parameters
    ----------
    rows : FusionRows
        In any order; several instruments may share a time.
    config : FusionConfig
        Settings.
    embargo_ns : int
        Nanoseconds left out on both sides of a held-out block, beyond the labels' spans.

    Returns
    -------
    FusionChoice
        Unpacks into fusion, report, held_out, tried.

    Raises
    ------
    DataError
        If there are too few rows, or one is not usable.
    ConfigError
        If the method is fixed and none of its weights is an expert's, or regime without regimes.
    """
    _check_rows(rows)
    answered = (~np.isnan(rows.probabilities)).any(axis=1)
    used = rows.take(answered)
    if len(used.label) < MIN_ROWS:
        raise DataError(
            f"fusion must have at least {MIN_ROWS} answered rows, had {len(used.label)}"
        )
    names = _candidates(used, config)
    held_out = _held_out(names, used, config, embargo_ns)
    fitted = _fit_methods(names, used, config)
    methods = _measured(fitted, held_out, used)
    chosen = _chosen(methods)
    calibrated = choose_calibration(
        CalibrationRows(
            held_out[names.index(chosen)], used.label, used.weight, used.ts_init, used.ts_end
        ),
        config.recalibration,
        embargo_ns=embargo_ns,
    )
    calibration = None if calibrated.report.chosen == "none" else calibrated.calibration
    fusion = replace(fitted[chosen], calibration=calibration)
    everywhere = np.full(len(rows.label), np.nan)
    everywhere[answered] = calibrated.held_out
    report = FusionReport(
        chosen=chosen,
        rows=len(used.label),
        methods=methods,
        experts=_expert_shares(fusion, used),
        correlation=_correlation(fusion.moments, used, config),
        calibration=calibrated.report,
    )
    return FusionChoice(fusion, report, everywhere, fitted)


def _chosen(methods: tuple[MethodLoss, ...]) -> str:
    """Return the method with the least loss, or `DEFAULT` where that is within an error of it.

    Not the simplest within an error, as for calibrations: the simplest way is to hear a bad expert
    as much as a good one, and the default's weights are held to equal ones already.
    """
    by_name = {method.name: method for method in methods}
    default = by_name.get(DEFAULT)
    if default is not None and default.excess <= default.standard_error:
        return DEFAULT
    return min(methods, key=lambda method: method.log_loss).name


def _check_rows(rows: FusionRows) -> None:
    if rows.probabilities.shape != (len(rows.label), len(rows.experts)) or not rows.experts:
        raise DataError(
            f"probabilities to fuse must be ({len(rows.label)}, {len(rows.experts)}) for the "
            f"experts {', '.join(rows.experts) or '(none)'}, were {rows.probabilities.shape}"
        )
    if len(set(rows.experts)) != len(rows.experts):
        raise DataError(f"experts to fuse must have different names, were {rows.experts}")
    if not np.isin(rows.label, (0.0, 1.0)).all():
        raise DataError("labels to fuse on must be 0 or 1, some were neither")


def _candidates(rows: FusionRows, config: FusionConfig) -> tuple[str, ...]:
    named = any(config.fixed_weights.get(name, 0.0) > 0.0 for name in rows.experts)
    if config.method == "auto":
        possible = {"fixed": named, "regime": rows.regime is not None}
        return tuple(name for name in METHODS if possible.get(name, True))
    if config.method == "fixed" and not named:
        raise ConfigError(
            f"fixed_weights must give one of the experts {', '.join(rows.experts)} a weight, "
            f"was {config.fixed_weights}"
        )
    if config.method == "regime" and rows.regime is None:
        raise ConfigError("fusion method regime needs the regime of each row, there is none")
    return (config.method,)


def _held_out(
    names: tuple[str, ...], rows: FusionRows, config: FusionConfig, embargo_ns: int
) -> Float64Array:
    """Return held-out fused probabilities, (n_methods, n_rows)."""
    found = np.empty((len(names), len(rows.label)))
    for train, held in inner_blocks(rows.ts_init, rows.ts_end, config.choice_folds, embargo_ns):
        others = rows.take(train)
        regime = None if rows.regime is None else rows.regime[held]
        for at, fusion in enumerate(_fit_methods(names, others, config).values()):
            found[at, held] = fusion.combine(rows.probabilities[held], None, regime).prob_up
    return found


def _measured(
    fitted: dict[str, Fusion], held_out: Float64Array, rows: FusionRows
) -> tuple[MethodLoss, ...]:
    weight = equal_mean_weights(rows.weight, len(rows.label))
    losses = np.stack([log_losses(row, rows.label) for row in held_out])
    count = len(rows.experts)
    learned = {"best": 1, "log_pool": count, "stacking": count + 1, "regime": count * 4}
    return HeldOut(tuple(fitted), losses, weight, rows.ts_init).measured(
        tuple(learned.get(name, 0) for name in fitted)
    )


def fit_method(method: str, rows: FusionRows, config: FusionConfig) -> Fusion:
    """Fit the fusion of one method (not ``auto``), without recalibration.

    Parameters
    ----------
    method : str
        One of `research.fusion.METHODS`.
    rows : FusionRows
        At least one expert has answered each.
    config : FusionConfig
        Its prior_rows, regime_prior_rows, log_odds_limit and fixed_weights count.
    """
    return _fit_methods((method,), rows, config)[method]


def _fit_methods(
    names: tuple[str, ...], rows: FusionRows, config: FusionConfig
) -> dict[str, Fusion]:
    """Fit several methods; what they share is computed once."""
    evidence = _Evidence.of(rows, config)
    moments = evidence.moments()
    learned = _learned_weights(names, rows, evidence, config)
    return {
        name: Fusion(
            method=name,
            experts=rows.experts,
            weights=learned[name][0],
            intercept=learned[name][1],
            centre=evidence.centre,
            moments=moments,
            log_odds_limit=config.log_odds_limit,
        )
        for name in names
    }


def _learned_weights(
    names: tuple[str, ...], rows: FusionRows, evidence: _Evidence, config: FusionConfig
) -> dict[str, tuple[Float64Array, float]]:
    """Return weights, (1 or 4, n_experts), and intercept of each method."""
    count = len(rows.experts)
    found: dict[str, tuple[Float64Array, float]] = {}
    pool = _pool_weights(evidence, config) if {"log_pool", "regime"} & set(names) else None
    for name in names:
        intercept = 0.0
        weights = np.full((1, count), 1.0 / count)
        if name == "fixed":
            weights = np.array([[config.fixed_weights.get(key, 0.0) for key in rows.experts]])
        elif name == "best":
            weights = _ranking(_alone(rows, evidence.centre, evidence.weight))[np.newaxis]
        elif name == "log_pool" and pool is not None:
            weights = pool[np.newaxis]
        elif name == "regime" and pool is not None and rows.regime is not None:
            weights = _regime_weights(evidence, rows.regime, pool, config)
        elif name == "stacking":
            stacked = _stacking(evidence, config)
            weights, intercept = stacked[np.newaxis, :-1], float(stacked[-1])
        found[name] = (weights, intercept)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """Log-odds less their centre, (n_experts, n_rows), zero where missing, and the labels.

    A missing expert says nothing, so its log-odds are those of the base rate.
    """

    said: Float64Array
    present: NDArray[np.bool_]
    label: Float64Array
    weight: Float64Array
    centre: float

    @classmethod
    def of(cls, rows: FusionRows, config: FusionConfig) -> _Evidence:
        weight = equal_mean_weights(rows.weight, len(rows.label))
        share = (np.sum(weight * rows.label) + 1.0) / (len(rows.label) + 2.0)
        centre = float(np.log(share / (1.0 - share)))
        columns = np.ascontiguousarray(rows.probabilities.T)
        present = ~np.isnan(columns)
        said = np.where(
            present, log_odds(np.where(present, columns, 0.5), config.log_odds_limit) - centre, 0.0
        )
        return cls(said, present, rows.label, weight, centre)

    def curvature(self) -> Float64Array:
        """Return about how much a row of average weight says of each weight, (n_experts,)."""
        return np.array([np.sum(self.weight * row**2) for row in self.said]) / (
            4.0 * len(self.label)
        )

    def moments(self) -> Float64Array:
        """Return mean products of log-odds where both have answered, (n_experts, n_experts)."""
        count = len(self.said)
        found = np.zeros((count, count))
        for i in range(count):
            for j in range(i + 1):
                both = self.weight * (self.present[i] & self.present[j])
                seen = np.sum(both)
                if seen > 0.0:
                    found[i, j] = found[j, i] = np.sum(both * self.said[i] * self.said[j]) / seen
        return found

    def take(self, rows: NDArray[np.bool_]) -> _Evidence:
        return _Evidence(
            np.ascontiguousarray(self.said[:, rows]),
            self.present[:, rows],
            self.label[rows],
            self.weight[rows],
            self.centre,
        )

    def rows(self, *, intercept: bool) -> WeightedRows:
        ones = [np.ones(len(self.label))] if intercept else []
        columns = np.stack([*self.said, *ones])
        return WeightedRows(columns, self.label, self.weight, self.centre)


def _equal_prior(evidence: _Evidence, prior_rows: float) -> tuple[Float64Array, Float64Array]:
    """Return centre and strength: equal weights, each held by `prior_rows` of its own rows."""
    count = len(evidence.said)
    held = prior_rows * evidence.curvature()
    strength = held + SILENCE
    return held / count / strength, strength


def _pool_weights(evidence: _Evidence, config: FusionConfig) -> Float64Array:
    centre, strength = _equal_prior(evidence, config.prior_rows)
    prior = Prior(centre, strength, np.ones(len(centre), dtype=bool))
    return fit_logistic(evidence.rows(intercept=False), prior)


def _stacking(evidence: _Evidence, config: FusionConfig) -> Float64Array:
    """Return the coefficients, (n_experts + 1,), last the intercept."""
    centre, strength = _equal_prior(evidence, config.prior_rows)
    prior = Prior(
        np.append(centre, 0.0),
        np.append(strength, _INTERCEPT_PRIOR),
        np.zeros(len(centre) + 1, dtype=bool),
    )
    return fit_logistic(evidence.rows(intercept=True), prior)


def _regime_weights(
    evidence: _Evidence, regime: Float64Array, common: Float64Array, config: FusionConfig
) -> Float64Array:
    """Return the common weights, then those of each regime, (1 + n_regimes, n_experts)."""
    strength = config.regime_prior_rows * evidence.curvature() + SILENCE
    prior = Prior(common, strength, np.ones(len(common), dtype=bool))
    found = [common]
    for value in REGIMES:
        inside = regime == value
        part = evidence.take(inside).rows(intercept=False)
        found.append(fit_logistic(part, prior) if inside.any() else common)
    return np.stack(found)


def _alone(rows: FusionRows, centre: float, weight: Float64Array) -> Float64Array:
    """Return each expert's mean log loss, the base rate where it is missing, (n_experts,)."""
    base = 1.0 / (1.0 + np.exp(-centre))
    columns = np.where(np.isnan(rows.probabilities), base, rows.probabilities).T
    return np.array([np.sum(weight * log_losses(row, rows.label)) for row in columns]) / len(weight)


def _ranking(loss: Float64Array) -> Float64Array:
    """Return a number for each expert that falls with its rank: 1, 1/2, 1/3 and so on."""
    rank = np.empty(len(loss))
    rank[np.argsort(loss, kind="stable")] = np.arange(1, len(loss) + 1)
    return 1.0 / rank


def _expert_shares(fusion: Fusion, rows: FusionRows) -> tuple[ExpertShare, ...]:
    weight = equal_mean_weights(rows.weight, len(rows.label))
    losses = _alone(rows, fusion.centre, weight)
    share = fusion.combine(rows.probabilities, None, rows.regime).weights.mean(axis=0)
    answered = (~np.isnan(rows.probabilities)).mean(axis=0)
    return tuple(
        ExpertShare(name, float(seen), float(loss), float(part))
        for name, seen, loss, part in zip(rows.experts, answered, losses, share, strict=True)
    )


def _correlation(
    moments: Float64Array, rows: FusionRows, config: FusionConfig
) -> tuple[tuple[float, ...], ...]:
    columns = log_odds(rows.probabilities, config.log_odds_limit).T
    count = len(moments)
    found = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            both = ~np.isnan(columns[i]) & ~np.isnan(columns[j])
            found[i, j] = _pearson(columns[i][both], columns[j][both])
    return tuple(tuple(row) for row in found.tolist())


def _pearson(one: Float64Array, other: Float64Array) -> float:
    if len(one) < 2:
        return float("nan")
    one, other = one - one.mean(), other - other.mean()
    power = float(np.sqrt(np.sum(one**2) * np.sum(other**2)))
    return float(np.sum(one * other)) / power if power > 0.0 else float("nan")
