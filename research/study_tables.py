"""The tables of a study that measure forecasts one by one, computed from frames of predictions.

A table is a list of records of plain numbers, so that what is written as JSON, as text and as
pictures is one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catalog.arrays import Float64Array
from catalog.timestamps import NS_PER_DAY
from research.comparisons import daily_sums
from research.estimates import Estimate
from research.metrics import (
    INTERVAL_COVERAGE,
    PREDICTION_METRICS,
    BootstrapConfig,
    day_weights,
    prediction_metrics,
    reliability_curve,
)
from research.predictions import EXPERT_PREFIX, WEIGHT_PREFIX
from research.probabilities import log_losses, log_odds
from research.references import REFERENCES

if TYPE_CHECKING:
    import pandas as pd

type Record = dict[str, Any]

FUSION_PREFIX = "fusion_"
CHOSEN = "fusion, as chosen"
_ODDS_LIMIT = 13.0


class Forecast(NamedTuple):
    """A column of probabilities.

    Parameters
    ----------
    name : str
        To print.
    kind : str
        expert, fusion, chosen, subset or reference.
    column : str
        Of the frame.
    """

    name: str
    kind: str
    column: str


def forecasts_of(frame: pd.DataFrame, subsets: Sequence[str] = ()) -> list[Forecast]:
    """Return the forecasts of a frame: experts, fusions, the chosen one, subsets, references.

    Parameters
    ----------
    frame : DataFrame
        As `research.walkforward.predict_forward` returns.
    subsets : sequence of str
        Names of fusions that are of some of the experts only.
    """
    names = [str(name) for name in frame.columns]
    experts = [n.removeprefix(EXPERT_PREFIX) for n in names if n.startswith(EXPERT_PREFIX)]
    fusions = [n.removeprefix(FUSION_PREFIX) for n in names if n.startswith(FUSION_PREFIX)]
    found = [Forecast(one, "expert", EXPERT_PREFIX + one) for one in experts]
    found += [
        Forecast(f"fusion: {one}", "fusion", FUSION_PREFIX + one)
        for one in fusions
        if one not in subsets
    ]
    if len(experts) > 1:
        found.append(Forecast(CHOSEN, "chosen", "prob_up"))
    found += [
        Forecast(f"fusion {one.replace('_', ' ')}", "subset", FUSION_PREFIX + one)
        for one in fusions
        if one in subsets
    ]
    found += [Forecast(name, "reference", column) for name, column in REFERENCES.items()]
    return [one for one in found if one.column in names]


def measures(
    frame: pd.DataFrame,
    forecasts: Sequence[Forecast],
    bootstrap: BootstrapConfig,
    *,
    threads: int = 1,
) -> list[Record]:
    """Measure forecasts as `prediction_metrics` does, each on the rows that it answered.

    Parameters
    ----------
    frame : DataFrame
        Predictions.
    forecasts : sequence of Forecast
        Columns; NaN where there was no answer.
    bootstrap : BootstrapConfig
        Intervals.
    threads : int
        Columns measured beside one another; no number depends on it.

    Returns
    -------
    list of dict
        name, kind, column, answered (fraction of the labelled rows), and each of
        `PREDICTION_METRICS` as ``{value, low, high}``.
    """
    known = frame[frame["label"].notna()]
    shared = known[["ts_init", "label", "base_prob"]]

    def measure(one: Forecast) -> Record:
        said = known[one.column]
        there = said.notna()
        record: Record = {"name": one.name, "kind": one.kind, "column": one.column}
        record["answered"] = float(there.mean())
        if not there.any():
            return record | {key: _no_estimate() for key in PREDICTION_METRICS}
        rows = shared[there].assign(prob_up=said[there])
        found = prediction_metrics(rows, **bootstrap.model_dump())
        return record | {key: value.as_dict() for key, value in found.items()}

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(measure, forecasts))


def _no_estimate() -> dict[str, None]:
    return {"value": None, "low": None, "high": None}


def plain_number(value: Any) -> Any:
    """Return a number as JSON has it; None for NaN."""
    found = value.item() if hasattr(value, "item") else value
    return None if found != found else found


def skill_by_fold(
    frame: pd.DataFrame, forecasts: Sequence[Forecast], bootstrap: BootstrapConfig
) -> list[Record]:
    """Return the log-loss skill of forecasts in each fold, as `prediction_metrics` has it.

    Returns
    -------
    list of dict
        fold, from, to (ISO dates of the first and last labelled row), and ``skill``: estimates by
        name; NaN becomes None.
    """
    found = []
    for fold, part in frame[frame["label"].notna()].groupby("fold", sort=True):
        ts = part["ts_init"].to_numpy(dtype=np.int64)
        skill = {one.name: _skill(part, one.column, bootstrap).as_dict() for one in forecasts}
        first, last = (date_of(int(edge)) for edge in (ts.min(), ts.max()))
        found.append({"fold": int(str(fold)), "from": first, "to": last, "skill": skill})
    return found


def date_of(ts: int) -> str:
    """Return the UTC day that a bar closing at `ts` belongs to, such as ``2024-03-01``."""
    return str(np.datetime64((ts - 1) // NS_PER_DAY, "D"))


def _skill(frame: pd.DataFrame, column: str, bootstrap: BootstrapConfig) -> Estimate:
    """Return ``1 - LL / LL_base`` on the answered rows and its bootstrap interval."""
    said = frame[column].to_numpy(dtype=np.float64)
    there = ~np.isnan(said)
    nan = float("nan")
    if not there.any():
        return Estimate(nan, nan, nan)
    label, base = (frame[name].to_numpy(dtype=np.float64)[there] for name in ("label", "base_prob"))
    ts = frame["ts_init"].to_numpy(dtype=np.int64)[there]
    losses = [log_losses(said[there], label), log_losses(base, label)]
    sums = np.stack([daily_sums(loss, ts)[0] for loss in losses], axis=1)
    value = float(1.0 - losses[0].sum() / losses[1].sum())
    weights = day_weights(len(sums), bootstrap.samples, bootstrap.mean_block_days, bootstrap.seed)
    if not len(weights):
        return Estimate(value, nan, nan)
    # Not a BLAS product: its rounding depends on the number of threads.
    drawn = np.einsum("sd,dk->sk", weights, sums, optimize=False)
    tail = (1.0 - INTERVAL_COVERAGE) / 2.0
    low, high = np.quantile(1.0 - drawn[:, 0] / drawn[:, 1], [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))


def mean_weights(frame: pd.DataFrame) -> dict[str, list[Record]]:
    """Return the experts' mean weights in the chosen fusion by fold and by regime.

    Returns
    -------
    dict of list of dict
        ``by_fold`` and ``by_regime``: name of the group, share of the rows, weights by expert.
    """
    columns = [str(name) for name in frame.columns if str(name).startswith(WEIGHT_PREFIX)]
    found = {}
    for key, column in (("by_fold", "fold"), ("by_regime", "regime")):
        groups = frame.groupby(column, sort=True, observed=True)
        found[key] = [
            {
                "group": str(name) or "unknown",
                "share": len(part) / len(frame),
                "weights": {
                    one.removeprefix(WEIGHT_PREFIX): float(part[one].mean()) for one in columns
                },
            }
            for name, part in groups
        ]
    return found


def log_odds_correlation(frame: pd.DataFrame, forecasts: Sequence[Forecast]) -> list[list[Any]]:
    """Return how log-odds correlate, where both answered; None where one is constant."""
    odds = [
        log_odds(frame[one.column].to_numpy(dtype=np.float64), _ODDS_LIMIT) for one in forecasts
    ]
    return [[plain_number(_correlation(one, other)) for other in odds] for one in odds]


def _correlation(one: Float64Array, other: Float64Array) -> float:
    both = ~(np.isnan(one) | np.isnan(other))
    if both.sum() < 2:
        return float("nan")
    one, other = one[both] - one[both].mean(), other[both] - other[both].mean()
    power = float(np.sqrt(np.sum(one**2) * np.sum(other**2)))
    return float(np.sum(one * other)) / power if power > 0.0 else float("nan")


def reliability(
    frame: pd.DataFrame, forecasts: Sequence[Forecast], bootstrap: BootstrapConfig
) -> dict[str, Record]:
    """Return reliability curves by name: mean, observed (estimates) and count of each bin."""
    known = frame[frame["label"].notna()]
    found = {}
    for one in forecasts:
        rows = known[known[one.column].notna()]
        if rows.empty:
            continue
        curve = reliability_curve(rows, config=bootstrap, column=one.column)
        found[one.name] = {
            "mean": curve.mean_probability.tolist(),
            "observed": [bin_.as_dict() for bin_ in curve.observed],
            "count": curve.count.tolist(),
        }
    return found
