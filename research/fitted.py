"""A fitted model: its experts, each calibrated, and the fusion that makes one answer of theirs.

Batch and stream ask the experts in different ways and then come here with what they said: what
becomes of it is one implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from research.calibration import Calibration
from research.experts import ExpertOutput, FittedExpert
from research.fusion import Fusion, FusionResult
from research.fusion_moments import combine_moments
from research.groups.regime import regime_name
from research.guidance import Guidance
from research.references import References
from research.slow_inputs import SLOW_PREFIXES
from research.staleness import expert_freshness, flat_limits, flat_reasons

if TYPE_CHECKING:
    import pandas as pd

    from research.calibration import CalibrationReport
    from research.estimates import Estimate
    from research.fusion_fit import FusionReport
    from research.predictions import PredictorSpec
    from research.settings import WalkForwardConfig
    from research.training_table import TrainingTable


_REGIME_NAMES = np.array([*map(regime_name, (0.0, 1.0, math.nan, -1.0))], dtype=object)
"""Names of regimes by their code: 0, 1, 2 for unknown, and -1, which is the last."""
OPTIONAL_PREFIXES = (
    *("smc_", "tf_", "cross_", "regime", "flow_", "path_"),
    *("funding_change", "funding_mean", "funding_time", *SLOW_PREFIXES),
)
"""Columns that may be undefined for good reason: no swing yet, no news."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One expert of a fusion.

    Parameters
    ----------
    expert : FittedExpert
        Rows in, raw probabilities out.
    calibration : Calibration
        Raw probabilities in, calibrated ones out.
    """

    expert: FittedExpert
    calibration: Calibration

    @property
    def name(self) -> str:
        """The expert's name."""
        return self.expert.name


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model says about some rows.

    Parameters
    ----------
    prob_up : (n_rows,) float64
        Fused probability; the base rate where no expert answered.
    raw_prob : (n_rows,) float64
        Mean of the experts' raw probabilities by their weights; NaN where none answered.
    mu, sigma : (n_rows,) float64
        Expected log return over the horizon and its scale, fractions; NaN if no expert gave any.
    epistemic : (n_rows,) float64
        Standard deviation of the probability that more data could remove; NaN if unknown.
    volatility : (n_rows,) float64
        Root mean square of the last one-bar log returns, a fraction; NaN if unknown.
    prob_low, prob_high : (n_rows,) float64
        Ends of the 95 % interval of what happens where `prob_up` is said; NaN if unknown.
    regime : (n_rows,) float64
        -1 mean-reverting, 0 neutral, 1 trend; NaN if unknown.
    experts : (n_rows, n_experts) float64
        Each expert's calibrated probability; NaN where it gave none.
    weights : (n_rows, n_experts) float64
        Each expert's share.
    side : (n_rows,) int64
        -1 short, 1 long by the fusion's threshold; 0 flat, as every degraded row is.
    reasons : (n_rows,) object
        Why a row is degraded; empty where it is not.
    """

    prob_up: Float64Array
    raw_prob: Float64Array
    mu: Float64Array
    sigma: Float64Array
    epistemic: Float64Array
    volatility: Float64Array
    prob_low: Float64Array
    prob_high: Float64Array
    regime: Float64Array
    experts: Float64Array
    weights: Float64Array
    side: Int64Array
    reasons: NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class FitReports:
    """What a fit has to say about itself beside the model: never part of a bundle's identity.

    Parameters
    ----------
    seconds : dict of float
        Time spent by step, such as ``fit transformer``.
    calibration : dict of CalibrationReport
        By expert.
    fusion : FusionReport, optional
        None with one expert.
    alternatives : dict of Fusion
        Other fusions fitted on the same rows, of all experts or of some, where a study asked.
    cut_short : tuple of str
        Experts that their time budget ended: they are not what their settings describe, and
        another run may end them elsewhere.
    left_out : dict of str
        Experts that are no members, and why: they had too few answers to be calibrated on.
    started_cold : dict of str
        Experts whose settings ask for a warm start that could not be, and why.
    learned_until : dict of int
        By expert, the end of the last label that it has learned from, UTC nanoseconds.
    metrics : dict of Estimate
        `prediction_metrics` of the fused answers on training rows that the experts were not fitted
        on, where that was asked for. Calibration and fusion were fitted on those rows.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, CalibrationReport] = field(default_factory=dict)
    fusion: FusionReport | None = None
    alternatives: dict[str, Fusion] = field(default_factory=dict)
    cut_short: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    started_cold: dict[str, str] = field(default_factory=dict)
    learned_until: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """Experts, calibrations, fusion and references, and what they were fitted on.

    Parameters
    ----------
    config : WalkForwardConfig
        Its settings.
    spec : PredictorSpec
        The question that it answers.
    feature_names : tuple of str
        Columns of the rows that it takes.
    members : tuple of Member
        Experts in the fusion's order, then those that stand in where none of it answers.
    fusion : Fusion
        Their answers in, one probability out.
    guidance : Guidance
        How sure the fused probability is, and from where on it pays.
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
    reports : FitReports
        How the fit went; empty for a model that was loaded.
    """

    config: WalkForwardConfig
    spec: PredictorSpec
    feature_names: tuple[str, ...]
    members: tuple[Member, ...]
    fusion: Fusion
    guidance: Guidance
    references: References
    n_rows: int
    train_start: int
    train_end: int
    until: int
    data_hash: str
    synthetic: bool
    reports: FitReports = field(default_factory=FitReports)

    def with_fusion(self, fusion: Fusion) -> FittedModel:
        """Return the model with another fusion, of some of its experts.

        Those that stand in where none of a fusion answers still do.
        """
        members = {member.name: member for member in self.members}
        fused = [members[name] for name in fusion.experts]
        named = (*self.fusion.experts, *fusion.experts)
        behind = [member for member in self.members if member.name not in named]
        return replace(self, members=(*fused, *behind), fusion=fusion)

    def answers(
        self,
        outputs: Mapping[str, ExpertOutput],
        values: Float64Array,
    ) -> Answers:
        """Make one answer a row of what the experts said.

        Parameters
        ----------
        outputs : mapping of ExpertOutput
            By expert; one that is not there (its circuit is open) is missing in every row.
        values : (n_rows, n_features) float64
            The rows that they were asked about.
        """
        fusion = self.fusion
        count = len(values)
        none = ExpertOutput.none(count)
        said = [outputs.get(member.name, none) for member in self.members]
        experts = np.column_stack(
            [_calibrated(member, output) for member, output in zip(self.members, said, strict=True)]
        )
        fused = len(fusion.experts)  # those behind it are asked where none of them answers
        regime = column(values, self.feature_names, "regime")
        fresh = expert_freshness(values, self.feature_names, fusion.experts, self.config.staleness)
        found = fusion.combine(experts[:, :fused], fresh, regime)
        mu, sigma, epistemic = combine_moments(said[:fused], found, experts[:, :fused])
        unit = return_unit(values, self.feature_names, self.spec.horizon_bars)
        silent = np.isnan(found.prob_up)
        prob_up, weights = _with_fallback(found, experts)
        prob_up = np.where(np.isnan(prob_up), self.references.base_prob, prob_up)
        raw = np.column_stack([output.prob_up for output in said])
        limits = flat_limits(self.feature_names, self.config.staleness, self.spec.interval_ns)
        reasons = _reasons(values, self.feature_names, silent, limits)
        low, high = self.guidance.interval(prob_up)
        least = self.config.fusion.side_threshold
        side = (prob_up > least).astype(np.int64) - (prob_up < 1.0 - least)
        return Answers(
            prob_up=prob_up,
            raw_prob=_weighted(raw, weights),
            mu=mu * unit,
            sigma=sigma * unit,
            epistemic=epistemic,
            volatility=unit / math.sqrt(self.spec.horizon_bars),
            prob_low=low,
            prob_high=high,
            regime=regime,
            experts=experts,
            weights=weights,
            side=np.where(reasons == "", side, 0),
            reasons=reasons,
        )


def _with_fallback(found: FusionResult, experts: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Let the members behind the fused ones answer where none of those did, the first that can.

    Returns
    -------
    prob_up, weights : (n_rows,), (n_rows, n_members) float64
        NaN where nobody answered; weights of all members.
    """
    prob_up, weights = found.prob_up.copy(), np.zeros(experts.shape)
    fused = found.weights.shape[1]
    weights[:, :fused] = found.weights
    for place in range(fused, experts.shape[1]):
        stands_in = np.isnan(prob_up) & ~np.isnan(experts[:, place])
        prob_up[stands_in] = experts[stands_in, place]
        weights[stands_in, place] = 1.0
    return prob_up, weights


def _calibrated(member: Member, output: ExpertOutput) -> Float64Array:
    answered = ~np.isnan(output.prob_up)
    found = np.full(len(output), np.nan)
    found[answered] = member.calibration(output.prob_up[answered])
    return found


def _weighted(raw: Float64Array, weights: Float64Array) -> Float64Array:
    """Return the mean of the raw probabilities that count; NaN where none does."""
    total = weights.sum(axis=1)
    mean = np.sum(np.where(weights > 0.0, weights * raw, 0.0), axis=1)
    found: Float64Array = np.divide(mean, total, out=np.full(len(raw), np.nan), where=total > 0.0)
    return found


def column(values: Float64Array, names: tuple[str, ...], name: str) -> Float64Array:
    """Return one column of some rows, (n_rows,); NaN throughout if there is none of that name."""
    if name not in names:
        return np.full(len(values), np.nan)
    return np.ascontiguousarray(values[:, names.index(name)])


def return_unit(values: Float64Array, names: tuple[str, ...], horizon_bars: int) -> Float64Array:
    """Return the volatility over the horizon, a fraction, in which experts state returns."""
    last_20, ratio = (
        column(values, names, "volatility_20"),
        column(values, names, "volatility_ratio"),
    )
    unit: Float64Array = last_20 / ratio * np.sqrt(horizon_bars)
    return unit


def _reasons(
    values: Float64Array,
    names: tuple[str, ...],
    silent: NDArray[np.bool_],
    limits: Mapping[str, float],
) -> NDArray[np.object_]:
    """Return what is wrong with each row: mostly nothing.

    What groups and slow series say may be undefined for good reason (no swing yet, no news); what
    every run has is undefined only where the market stands still or another's bar is missing.
    """
    found: dict[int, list[str]] = {}
    needed = [place for place, name in enumerate(names) if not name.startswith(OPTIONAL_PREFIXES)]
    undefined = np.isnan(values[:, needed])
    for row in np.flatnonzero(undefined.any(axis=1)).tolist():
        missing = [names[needed[place]] for place in np.flatnonzero(undefined[row])]
        found.setdefault(row, []).append(f"undefined features: {', '.join(missing)}")
    for row in np.flatnonzero(silent).tolist():
        found.setdefault(row, []).append("no expert of the fusion answered")
    for row, reason in flat_reasons(values, names, limits).items():
        found.setdefault(row, []).append(reason)
    reasons = np.full(len(values), "", dtype=object)
    for row, parts in found.items():
        reasons[row] = "; ".join(parts)
    return reasons


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
    outputs = {member.name: member.expert.predict(matrix, rows) for member in model.members}
    found = model.answers(outputs, values)
    names = np.array(matrix.instruments, dtype=object)
    columns = {
        "ts_init": matrix.ts_init[rows],
        "instrument_id": names[matrix.instrument[rows]],
        "fold": np.full(len(rows), fold, dtype=np.int64),
        "raw_prob": found.raw_prob,
        "prob_up": found.prob_up,
        "label": table.labels.value[rows],
        "forward_return": table.labels.forward_return[rows],
        **model.references.predict(values, table.last_sign[rows]),
        "degraded_reason": found.reasons,
        "mu": found.mu,
        "sigma": found.sigma,
        "epistemic": found.epistemic,
        "volatility": found.volatility,
        "prob_low": found.prob_low,
        "prob_high": found.prob_high,
        "entry_threshold": np.full(len(rows), model.guidance.entry_threshold),
        "side": found.side,
        "regime": _REGIME_NAMES[np.where(np.isnan(found.regime), 2.0, found.regime).astype(int)],
    }
    for place, member in enumerate(model.members):
        columns[f"expert_{member.name}"] = found.experts[:, place]
        columns[f"weight_{member.name}"] = found.weights[:, place]
    there = {member.name for member in model.members}
    for name in model.config.experts.chosen():
        if name not in there:  # too few answers to be calibrated on: see `FitReports.left_out`
            columns[f"expert_{name}"] = np.full(len(rows), np.nan)
            columns[f"weight_{name}"] = np.zeros(len(rows))
    for method, other in model.reports.alternatives.items():
        columns[f"fusion_{method}"] = model.with_fusion(other).answers(outputs, values).prob_up
    return pd.DataFrame(columns)
