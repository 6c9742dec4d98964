"""What a fit says of itself, for runs and bundles: never part of what a model is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from research.fitted import FittedModel


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


def _finite(value: Any) -> Any:
    """Return a value as JSON reads it back, with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
