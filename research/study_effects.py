"""What experts and inputs are worth: paired comparisons with and without them, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from catalog.errors import DataError
from research.comparisons import ComparisonConfig, compare_forecasts, holm
from research.metrics import BootstrapConfig
from research.predictions import EXPERT_PREFIX
from research.study_tables import FUSION_PREFIX, Forecast, Record, measures, plain_number

if TYPE_CHECKING:
    import pandas as pd

EXPERT_RULE = (
    "An expert of the fusion earns its place at a horizon if the fusion without it, fitted and "
    "chosen anew on the same held-out rows of each training span, has the larger log loss with a "
    "corrected p below alpha; it harms if that fusion has the smaller one. An expert that stands "
    "in (heuristic) would earn a place in the fusion if the fusion with it had the smaller loss. "
    "What is not shown to help is to be left out."
)
INPUT_RULE = (
    "An input earns its place at a horizon if the same expert, fitted without it on the same rows, "
    "has the larger log loss with a corrected p below alpha; it harms if it has the smaller one. "
    "What is not shown to help is to be left out. With several judges the least favourable of "
    "those that show a difference counts."
)
EARNS, HARMS, NOT_SHOWN = "earns its place", "harms", "not shown to help"


def comparisons(
    frame: pd.DataFrame,
    baseline: str,
    candidates: Sequence[Forecast],
    config: ComparisonConfig,
) -> list[Record]:
    """Compare forecasts with a baseline by log loss, corrected for their number.

    Parameters
    ----------
    frame : DataFrame
        Predictions.
    baseline : str
        Column to compare with.
    candidates : sequence of Forecast
        What is compared; those that answered no labelled row that the baseline did are left out.
    config : ComparisonConfig
        Settings.

    Returns
    -------
    list of dict
        name, kind, rows, difference (candidate's mean log loss less the baseline's, nats: below
        zero is better) with low and high, p, p_holm, verdict; see `compare_forecasts`.
    """
    known = frame["label"].notna() & frame[baseline].notna()
    there = [one for one in candidates if (known & frame[one.column].notna()).any()]
    if not there:
        return []
    named = {one.name: one.column for one in there}
    table = compare_forecasts(frame, baseline, named, config, scores=("log_loss",))
    kinds = {one.name: one.kind for one in there}
    return [
        {"name": row["name"], "kind": kinds[str(row["name"])]}
        | {key: plain_number(row[key]) for key in ("rows", *_COMPARED, "verdict")}
        for row in table.to_dict("records")
    ]


_COMPARED = ("difference", "low", "high", "p", "p_holm")


def _with_less_without(
    frame: pd.DataFrame, pair: Sequence[str], config: ComparisonConfig
) -> Record:
    """Compare a column with another; no numbers where they have no answered row in common."""
    with_it, without = pair
    for one in comparisons(frame, without, [Forecast(with_it, "with", with_it)], config):
        return {key: one[key] for key in ("rows", *_COMPARED)}
    return {"rows": 0, **dict.fromkeys(_COMPARED)}


def _judged(found: list[Record], config: ComparisonConfig) -> list[Record]:
    """Give records their corrected p and their verdict, all of them counted together."""
    corrected = holm(np.array([_number(one["p"]) for one in found], dtype=np.float64))
    for record, p in zip(found, corrected.tolist(), strict=True):
        record["p_holm"] = plain_number(p)
        record["verdict"] = _verdict(p, record["difference"], config.alpha)
    return found


def joined_pair(
    with_it: pd.DataFrame, without: pd.DataFrame, columns: Mapping[str, str]
) -> pd.DataFrame:
    """Return the rows that two walk-forwards both predicted, side by side.

    Parameters
    ----------
    with_it, without : DataFrame
        Predictions of the same label.
    columns : mapping of str
        Column of `with_it` by column of `without`.

    Returns
    -------
    DataFrame
        ts_init, instrument_id, label, base_prob, and ``with <column>`` and ``without <column>``
        for each pair, by the column of `without`.

    Raises
    ------
    DataError
        If they have no row in common, or their labels differ: they answer other questions.
    """
    keys = ["ts_init", "instrument_id"]
    one = with_it[[*keys, "label", *columns.values()]]
    one = one.rename(columns={new: f"with {old}" for old, new in columns.items()})
    other = without[[*keys, "label", "base_prob", *columns]]
    other = other.rename(columns={"label": "label_", **{old: f"without {old}" for old in columns}})
    both = one.merge(other, on=keys, how="inner", validate="one_to_one")
    if both.empty:
        raise DataError("a pair of walk-forwards must have rows in common, has none")
    if not np.array_equal(both["label"], both["label_"], equal_nan=True):
        raise DataError("a pair of walk-forwards must have the same labels, has not")
    return both.drop(columns="label_").sort_values(keys, kind="stable", ignore_index=True)


def input_effects(
    pairs: Mapping[str, tuple[pd.DataFrame, Sequence[str]]],
    config: ComparisonConfig,
    bootstrap: BootstrapConfig,
) -> list[Record]:
    """Return what inputs change, each judged on its own pair of walk-forwards.

    Parameters
    ----------
    pairs : mapping of (DataFrame, sequence of str)
        By input: `joined_pair`'s rows, and the columns that judge.
    config : ComparisonConfig
        Paired tests; Holm's correction counts all pairs and judges together.
    bootstrap : BootstrapConfig
        For the metrics beside them.

    Returns
    -------
    list of dict
        input, judge, rows, with and without (auc and log_loss_skill, values), difference (log
        loss with it less without, nats: below zero is better) with low and high, p, p_holm,
        verdict.
    """
    found: list[Record] = []
    values_only = bootstrap.model_copy(update={"samples": 0})
    for name, (frame, judges) in pairs.items():
        for judge in judges:
            pair = [Forecast(side, "input", f"{side} {judge}") for side in ("with", "without")]
            sides = {
                record["name"]: {
                    key: record[key]["value"] for key in ("auc", "log_loss_skill", "accuracy")
                }
                for record in measures(frame, pair, values_only)
            }
            kept = _with_less_without(frame, [one.column for one in pair], config)
            judged = "fusion" if judge == "prob_up" else judge.removeprefix(EXPERT_PREFIX)
            found.append({"input": name, "judge": judged, **sides, **kept})
    return _judged(found, config)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _verdict(p: float, difference: float, alpha: float) -> str:
    """Return what a difference of log loss, with less without, says."""
    if not p < alpha:
        return NOT_SHOWN
    return EARNS if difference < 0.0 else HARMS


def expert_effects(
    frame: pd.DataFrame, experts: Sequence[str], config: ComparisonConfig
) -> list[Record]:
    """Return what each expert is worth to the fusion, by `EXPERT_RULE`.

    Parameters
    ----------
    frame : DataFrame
        With the columns ``fusion_without_<expert>`` for experts of the fusion, or
        ``fusion_with_<expert>`` for those that only stand in.
    experts : sequence of str
        Names.
    config : ComparisonConfig
        Paired tests; Holm's correction counts all of them together.

    Returns
    -------
    list of dict
        expert, stands_in, rows, difference (log loss of the fusion with it less without, nats:
        below zero is better) with low and high, p, p_holm, verdict.
    """
    import pandas as pd

    found: list[Record] = []
    for expert in experts:
        without, with_it = f"{FUSION_PREFIX}without_{expert}", f"{FUSION_PREFIX}with_{expert}"
        stands_in = with_it in frame
        if not stands_in and without not in frame:
            continue
        rows = pd.DataFrame(
            {
                "ts_init": frame["ts_init"],
                "label": frame["label"],
                "with": frame[with_it if stands_in else "prob_up"],
                "without": frame["prob_up" if stands_in else without],
            }
        )
        kept = _with_less_without(rows, ("with", "without"), config)
        found.append({"expert": expert, "stands_in": stands_in, **kept})
    return _judged(found, config)


def overall_verdict(verdicts: Sequence[str]) -> str:
    """Return one verdict of several judges: the least favourable of those that show anything."""
    for one in (HARMS, EARNS):
        if one in verdicts:
            return one
    return NOT_SHOWN
