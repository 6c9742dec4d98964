"""What a family of variants and the forecasts behind it leave standing, as plain tables.

Functions of returns and predictions: who replays what is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError
from research.comparisons import ComparisonConfig
from research.cscv import GROUPS, backtest_overfitting
from research.data_snooping import model_confidence_set, superior_ability
from research.overfitting import SharpeMoments, minimum_track_record
from research.prediction_tests import compare_hits, compare_losses
from research.predictions import EXPERT_PREFIX
from research.probabilities import log_losses

if TYPE_CHECKING:
    import pandas as pd

NOTHING, HOLDING = "doing nothing", "buy and hold"
"""Names of what variants are held against."""
_MIN_GROUP_DAYS = 4
MODEL = "prob_up"
"""Column of the fused probabilities."""
type Table = dict[str, Any]


def variant_tables(
    returns: Mapping[str, Float64Array],
    holding: Float64Array,
    config: ComparisonConfig,
) -> Table:
    """Ask what choosing among variants is worth.

    Parameters
    ----------
    returns : mapping of str to (n_days,) float64
        Daily returns of every variant over the same days, in time order.
    holding : (n_days,) float64
        Those of buying and holding.
    config : ComparisonConfig
        Draws of the bootstrap.

    Returns
    -------
    dict
        ``pbo``, ``spa_nothing``, ``spa_holding``, ``mcs``, each None or without a value where it
        cannot be had, ``left_out`` (variants whose equity was used up) and ``refused`` (why a
        table is None). The confidence set holds doing nothing and buying and holding as well.
    """
    kept = {name: one for name, one in returns.items() if np.isfinite(one).all()}
    refused: dict[str, str] = {}
    names = tuple(kept)
    matrix = np.column_stack([kept[name] for name in names]) if kept else np.empty((0, 0))
    rivals = (*names, NOTHING, HOLDING)
    losses = [-kept[name] for name in names] + [np.zeros(len(holding)), -holding]

    def table(name: str, make: Callable[[], Any]) -> Table | None:
        try:
            found: Table = make().as_dict()
        except (ConfigError, DataError) as error:  # too few days for groups is the former
            refused[name] = str(error)
            return None
        return found

    groups = _groups(len(holding))
    if not kept:
        refused["pbo"] = "every variant used up its equity"
    return {
        "pbo": table("pbo", lambda: backtest_overfitting(matrix, groups=groups)),
        "spa_nothing": table("spa_nothing", lambda: superior_ability(matrix, names, None, config)),
        "spa_holding": table(
            "spa_holding", lambda: superior_ability(matrix, names, holding, config)
        ),
        "mcs": table("mcs", lambda: model_confidence_set(np.column_stack(losses), rivals, config)),
        "left_out": [name for name in returns if name not in kept],
        "refused": refused,
    }


def overfitting_points(returns: Mapping[str, Float64Array]) -> Table | None:
    """Return logits and the measures in and out of sample of each combination, for a picture."""
    kept = [one for one in returns.values() if np.isfinite(one).all()]
    try:
        found = backtest_overfitting(np.column_stack(kept), groups=_groups(len(kept[0])))
    except (ConfigError, DataError, IndexError, ValueError):
        return None
    return {
        "logits": found.logits,
        "in_sample": found.in_sample,
        "out_of_sample": found.out_of_sample,
        "slope": found.slope,
        "intercept": found.intercept,
    }


def _groups(n_days: int) -> int:
    """Return the even number of groups: 16, fewer where they would be shorter than four days."""
    return int(np.clip(n_days // _MIN_GROUP_DAYS // 2 * 2, 4, GROUPS))


def track_record(returns: Float64Array) -> Table:
    """Return how long a record must be for its Sharpe ratio to be above 0 at 95 %, in days."""
    moments = SharpeMoments.of(returns)
    needed = minimum_track_record(moments)
    return {"days": len(returns), "needed_days": needed, "sharpe": moments.sharpe}


def forecast_tests(frame: pd.DataFrame, horizon_ns: int) -> dict[str, Table]:
    """Hold the fused probabilities against the base rate and the best single expert.

    Parameters
    ----------
    frame : DataFrame
        Out-of-sample predictions: ts_init, label, prob_up, base_prob, and expert_<name> where
        there are several.
    horizon_ns : int
        How far ahead a label looks.

    Returns
    -------
    dict
        By the rival's name: ``losses`` (Diebold and Mariano), ``hits`` (McNemar) and ``column``;
        either None where the two never differ. The best expert is that with the least log loss on
        these very rows, which favours it.
    """
    rivals = {"base rate": "base_prob"}
    if "logistic_prob" in frame:
        rivals["logistic regression"] = "logistic_prob"
    best = best_expert(frame)
    if best is not None:
        rivals[f"best expert ({best.removeprefix(EXPERT_PREFIX)})"] = best
    return {
        name: {
            "column": column,
            "losses": _or_none(
                partial(compare_losses, frame, MODEL, column, horizon_ns=horizon_ns)
            ),
            "hits": _or_none(partial(compare_hits, frame, MODEL, column, horizon_ns=horizon_ns)),
        }
        for name, column in rivals.items()
        if column in frame
    }


def best_expert(frame: pd.DataFrame) -> str | None:
    """Return the column of the expert with the least log loss; None with fewer than two."""
    known = frame[frame["label"].notna()]
    columns = [name for name in map(str, frame) if name.startswith(EXPERT_PREFIX)]
    answered = [name for name in columns if known[name].notna().any()]
    if len(answered) < 2:
        return None
    return min(answered, key=lambda name: _mean_loss(known, name))


def _mean_loss(frame: pd.DataFrame, column: str) -> float:
    rows = frame[frame[column].notna()]
    values = rows[column].to_numpy(dtype=np.float64)
    return float(log_losses(values, rows["label"].to_numpy(dtype=np.float64)).mean())


def _or_none(test: Callable[[], Any]) -> Table | None:
    try:
        found: Table = test().as_dict()
    except DataError:
        return None
    return found


def path_table(paths: Sequence[Mapping[str, Any]]) -> Table:
    """Return how far the paths of a cross-validation lie apart.

    Parameters
    ----------
    paths : sequence of mapping
        Each with ``net_sharpe`` (annual) and ``net_return``.

    Returns
    -------
    dict
        Mean, standard deviation, least and largest Sharpe ratio, and the share of paths that lost.
    """
    ratios = np.array([float(one["net_sharpe"]) for one in paths])
    lost = np.array([float(one["net_return"]) < 0.0 for one in paths])
    return {
        "sharpe_mean": float(ratios.mean()),
        "sharpe_std": float(ratios.std(ddof=1)) if len(ratios) > 1 else None,
        "sharpe_least": float(ratios.min()),
        "sharpe_largest": float(ratios.max()),
        "share_lost": float(lost.mean()),
    }
