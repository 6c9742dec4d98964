"""All tables of one horizon of a study; nothing is fitted or read here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from catalog.arrays import Int64Array
from catalog.errors import DataError
from research.comparisons import ComparisonConfig
from research.metrics import BootstrapConfig
from research.study_effects import comparisons, expert_effects
from research.study_tables import (
    Record,
    date_of,
    forecasts_of,
    log_odds_correlation,
    mean_weights,
    measures,
    reliability,
    skill_by_fold,
)

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "lightgbm"
"""The expert that all else is compared with."""


def horizon_record(
    frame: pd.DataFrame,
    subsets: Sequence[str],
    bootstrap: BootstrapConfig,
    config: ComparisonConfig,
    *,
    threads: int = 1,
) -> Record:
    """Return all tables of one horizon's main walk-forward.

    Parameters
    ----------
    frame : DataFrame
        Its predictions.
    subsets : sequence of str
        Names of the fusions of some experts.
    bootstrap, config
        Intervals and paired tests.
    threads : int
        Columns measured beside one another.

    Returns
    -------
    dict
        rows, from, to, measures, baseline, comparisons, experts (`expert_effects`), folds,
        weights, correlation, reliability.

    Raises
    ------
    DataError
        If no row has a label.
    """
    if not frame["label"].notna().any():
        raise DataError(
            "a studied horizon must have labelled rows in the tested span, had none of "
            f"{len(frame):,}; choose a shorter horizon or other labels"
        )
    forecasts = forecasts_of(frame, subsets)
    experts = [one for one in forecasts if one.kind == "expert"]
    shown = [one for one in forecasts if one.kind in ("expert", "chosen")]
    base = next((one for one in experts if one.name == BASELINE), experts[0])
    # Fusions of some experts answer another question, in a table of their own.
    others = [one for one in forecasts if one != base and one.kind != "subset"]
    ts: Int64Array = frame["ts_init"].to_numpy(dtype=np.int64)
    return {
        "rows": int(frame["label"].notna().sum()),
        "from": date_of(int(ts.min())),
        "to": date_of(int(ts.max())),
        "measures": measures(frame, forecasts, bootstrap, threads=threads),
        "baseline": base.name,
        "comparisons": comparisons(frame, base.column, others, config),
        "experts": expert_effects(frame, [one.name for one in experts], config),
        "folds": skill_by_fold(frame, shown, bootstrap),
        "weights": mean_weights(frame),
        "correlation": {
            "names": [one.name for one in shown],
            "values": log_odds_correlation(frame, shown),
        },
        "reliability": reliability(frame, shown, bootstrap),
    }
