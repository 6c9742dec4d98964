"""What a fit says of itself, for runs and bundles: never part of what a model is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from research.metrics import BootstrapConfig, prediction_metrics

if TYPE_CHECKING:
    from research.estimates import Estimate
    from research.fitted import FittedModel
    from research.guidance import HeldOutRows


def fit_report(model: FittedModel) -> dict[str, Any]:
    """Return how a model was fitted and why its parts were chosen, for JSON.

    Returns
    -------
    dict
        ``until``, ``train_start``, ``train_end`` (UTC nanoseconds) and ``n_train`` rows;
        ``seconds`` by step; ``cut_short``, the experts that their time budget ended; ``left_out``
        and ``started_cold``, by expert why it is no member, or its warm start was none;
        ``calibration``, by expert the held-out loss of each map, which was chosen and what each
        says at both ends of the scores; ``fusion``, the same of each method and the experts'
        shares (None with one expert). Numbers that are not finite are None. A model that was
        loaded knows nothing of its fit: what was written with it does.
    """
    reports = model.reports
    found: dict[str, Any] = _finite(
        {
            "until": model.until,
            "train_start": model.train_start,
            "train_end": model.train_end,
            "n_train": model.n_rows,
            "seconds": {name: round(spent, 3) for name, spent in reports.seconds.items()},
            "cut_short": reports.cut_short,
            "left_out": reports.left_out,
            "started_cold": reports.started_cold,
            "calibration": {name: one.as_dict() for name, one in reports.calibration.items()},
            "fusion": None if reports.fusion is None else reports.fusion.as_dict(),
        }
    )
    return found


def held_out_metrics(
    rows: HeldOutRows, base_prob: float, bootstrap: BootstrapConfig
) -> dict[str, Estimate]:
    """Return `prediction_metrics` of a fusion's answers on rows that its experts did not see.

    Parameters
    ----------
    rows : HeldOutRows
        What it said, and what happened.
    base_prob : float
        Share of rises in the rows that it was fitted on.
    bootstrap : BootstrapConfig
        For the intervals.

    Returns
    -------
    dict of Estimate
        Empty where no row has both an answer and a label.
    """
    import pandas as pd

    frame = pd.DataFrame(
        {
            "ts_init": rows.ts_init,
            "label": rows.value,
            "base_prob": base_prob,
            "prob_up": rows.prob_up,
        }
    ).dropna()
    return prediction_metrics(frame, **bootstrap.model_dump()) if len(frame) else {}


def _finite(value: Any) -> Any:
    """Return a value as JSON reads it back, with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
