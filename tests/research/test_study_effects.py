"""What experts and inputs are worth, where somebody has planted what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import DataError
from catalog.timestamps import NS_PER_HOUR
from research.comparisons import ComparisonConfig, holm
from research.metrics import BootstrapConfig
from research.study import horizon_record
from research.study_effects import (
    EARNS,
    HARMS,
    NOT_SHOWN,
    expert_effects,
    input_effects,
    joined_pair,
    overall_verdict,
)

FAST = ComparisonConfig(samples=300)
VALUES = BootstrapConfig(samples=0)
COLUMN = "expert_lightgbm"


def sigmoid(odds: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-odds)))


def planted(
    said: dict[str, float], seed: int = 0, n_days: int = 40, *, noise: int = 0
) -> pd.DataFrame:
    """Return a market whose true odds are known, and what some say who know a share of them.

    A share of 1 is the truth, 0 a coin, -1 the opposite; each has a little noise of its own.
    """
    random, own = np.random.default_rng(seed), np.random.default_rng((seed, noise + 1))
    ts = np.repeat(np.arange(1, n_days * 24 + 1) * NS_PER_HOUR, 2)
    odds = random.normal(0.0, 1.0, len(ts))
    return pd.DataFrame(
        {
            "ts_init": ts,
            "instrument_id": np.tile(np.array(["A", "B"], dtype=object), len(ts) // 2),
            "fold": np.arange(len(ts)) // (len(ts) // 2),
            "label": (random.random(len(ts)) < sigmoid(odds)).astype(np.float64),
            "base_prob": 0.5,
            **{
                name: sigmoid(share * odds + own.normal(0.0, 0.1, len(ts)))
                for name, share in said.items()
            },
        }
    )


def loss(frame: pd.DataFrame, column: str) -> float:
    """Return the mean log loss, written out."""
    right = np.where(frame["label"] == 1.0, frame[column], 1.0 - frame[column])
    return float(-np.mean(np.log(right)))


def literal_holm(p: Sequence[float]) -> list[float]:
    """Return Holm's correction as the paper has it: step by step through the ordered values."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    found, largest = [0.0] * len(p), 0.0
    for step, place in enumerate(order):
        largest = max(largest, (len(p) - step) * p[place])
        found[place] = min(largest, 1.0)
    return found


def test_an_expert_that_helps_one_that_harms_and_noise() -> None:
    frame = planted(
        {
            "prob_up": 0.6,
            "fusion_without_lightgbm": 0.0,  # without it, little is known
            "fusion_without_lstm": 1.0,  # without it, all would be known
            "fusion_without_tft": 0.6,
            "fusion_with_heuristic": 0.0,
        }
    )
    frame["fusion_without_transformer"] = frame["prob_up"]
    names = ["lightgbm", "lstm", "tft", "transformer", "heuristic", "unknown"]
    found = {one["expert"]: one for one in expert_effects(frame, names, FAST)}
    assert {name: one["verdict"] for name, one in found.items()} == {
        "lightgbm": EARNS,
        "lstm": HARMS,
        "tft": NOT_SHOWN,
        "transformer": NOT_SHOWN,
        "heuristic": HARMS,
    }
    assert [name for name, one in found.items() if one["stands_in"]] == ["heuristic"]
    assert found["transformer"]["difference"] == 0.0
    assert found["transformer"]["p"] == 1.0
    own = loss(frame, "prob_up")
    for name in ("lightgbm", "lstm", "tft"):
        expected = own - loss(frame, f"fusion_without_{name}")
        assert found[name]["difference"] == pytest.approx(expected, rel=1e-12)
    expected = loss(frame, "fusion_with_heuristic") - own
    assert found["heuristic"]["difference"] == pytest.approx(expected, rel=1e-12)


def test_a_stand_in_that_would_help_earns_a_place() -> None:
    frame = planted({"prob_up": 0.0, "fusion_with_heuristic": 1.0})
    (found,) = expert_effects(frame, ["heuristic"], FAST)
    assert found["verdict"] == EARNS
    assert found["difference"] < 0.0
    assert found["low"] < found["difference"] < found["high"] < 0.0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([-1.0, 1.0]))
def test_the_sign_is_that_of_who_knows_more(seed: int, share: float) -> None:
    frame = planted({"prob_up": 0.5 + 0.5 * share, "fusion_without_lstm": 0.5 - 0.5 * share}, seed)
    (found,) = expert_effects(frame, ["lstm"], FAST)
    assert np.sign(found["difference"]) == -share
    assert found["verdict"] == (EARNS if share > 0.0 else HARMS)
    # The two sides changed over, it is the same with the other sign.
    names = {"prob_up": "fusion_without_lstm", "fusion_without_lstm": "prob_up"}
    (other,) = expert_effects(frame.rename(columns=names), ["lstm"], FAST)
    assert other["difference"] == pytest.approx(-found["difference"], rel=1e-12)
    assert (other["low"], other["high"]) == pytest.approx((-found["high"], -found["low"]))
    assert other["p"] == pytest.approx(found["p"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_is_what_the_paper_says(p: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), literal_holm(p), rtol=1e-12)


def pairs_of(
    shares: dict[str, tuple[float, float]], judges: Sequence[str] = (COLUMN,)
) -> dict[str, tuple[pd.DataFrame, Sequence[str]]]:
    """Return pairs of walk-forwards by input: what is known with it, and without."""
    found: dict[str, tuple[pd.DataFrame, Sequence[str]]] = {}
    for seed, (name, (with_it, without)) in enumerate(shares.items()):
        sides = [
            planted(dict.fromkeys(judges, share), seed, noise=noise)
            for noise, share in enumerate((with_it, without))
        ]
        columns = {one: one for one in judges}
        found[name] = (joined_pair(sides[0], sides[1], columns), tuple(judges))
    return found


def test_inputs_that_help_harm_and_do_nothing() -> None:
    pairs = pairs_of({"smc": (0.9, 0.2), "slow": (0.2, 0.9), "flow": (0.5, 0.5)})
    found = input_effects(pairs, FAST, VALUES)
    assert [(one["input"], one["verdict"]) for one in found] == [
        ("smc", EARNS),
        ("slow", HARMS),
        ("flow", NOT_SHOWN),
    ]
    for one in found:
        frame = pairs[one["input"]][0]
        with_it, without = (loss(frame, f"{side} {COLUMN}") for side in ("with", "without"))
        assert one["judge"] == "lightgbm"
        assert one["rows"] == len(frame)
        assert one["difference"] == pytest.approx(with_it - without, rel=1e-12)
        base = loss(frame, "base_prob")
        assert one["with"]["log_loss_skill"] == pytest.approx(1.0 - with_it / base, rel=1e-9)
        assert one["without"]["log_loss_skill"] == pytest.approx(1.0 - without / base, rel=1e-9)
        assert one["difference"] == 0.0 or (one["difference"] < 0.0) == (
            one["with"]["auc"] > one["without"]["auc"]
        )


def test_all_pairs_and_judges_are_counted_together() -> None:
    judges = (COLUMN, "prob_up")
    shares = {"smc": (0.72, 0.7), "slow": (0.6, 0.61), "flow": (0.75, 0.65)}
    found = input_effects(pairs_of(shares, judges), FAST, VALUES)
    assert [one["judge"] for one in found] == ["lightgbm", "fusion"] * 3
    raw = [one["p"] for one in found]
    assert [one["p_holm"] for one in found] == pytest.approx(literal_holm(raw))
    assert max(raw) > min(raw)
    for one in found:
        shown = one["p_holm"] < FAST.alpha
        helps = EARNS if one["difference"] < 0.0 else HARMS
        assert one["verdict"] == (helps if shown else NOT_SHOWN)
    # Alone it would have shown something that it does not show among the others.
    alone = input_effects(pairs_of({"smc": shares["smc"]}), FAST, VALUES)[0]
    assert alone["p_holm"] == alone["p"]
    assert found[0]["p_holm"] > found[0]["p"]


def test_verdicts_are_by_the_corrected_p() -> None:
    pairs = pairs_of({"smc": (0.72, 0.7), "slow": (0.6, 0.61), "flow": (0.75, 0.65)})
    p = [one["p"] for one in input_effects(pairs, FAST, VALUES)]
    between = FAST.model_copy(update={"alpha": 2.0 * min(p)})
    assert [one["verdict"] for one in input_effects(pairs, between, VALUES)] == [NOT_SHOWN] * 3
    names = ["lightgbm", "lstm", "tft"]
    frame = planted({"prob_up": 0.9, **{f"fusion_without_{name}": 0.65 for name in names}})
    p = [one["p"] for one in expert_effects(frame, names, FAST)]
    between = FAST.model_copy(update={"alpha": 2.0 * min(p)})
    assert [one["verdict"] for one in expert_effects(frame, names, between)] == [NOT_SHOWN] * 3


def test_a_judge_that_never_answered_shows_nothing_and_is_not_counted() -> None:
    pairs = pairs_of({"smc": (0.9, 0.2), "regime": (0.9, 0.2)})
    pairs["regime"][0][f"without {COLUMN}"] = np.nan
    smc, regime = input_effects(pairs, FAST, VALUES)
    assert smc["p_holm"] == smc["p"]
    assert regime["verdict"] == NOT_SHOWN
    assert regime["rows"] == 0
    assert all(regime[key] is None for key in ("difference", "low", "high", "p", "p_holm"))
    assert regime["without"]["auc"] is None
    assert regime["with"]["auc"] > 0.5


def test_too_few_days_show_nothing() -> None:
    frame = planted({"prob_up": 1.0, "fusion_without_lstm": -1.0}, n_days=7)
    (found,) = expert_effects(frame, ["lstm"], FAST)
    assert found["difference"] < 0.0
    assert (found["p"], found["verdict"]) == (None, NOT_SHOWN)


def test_a_pair_is_compared_on_the_rows_that_both_have() -> None:
    one, other = planted({COLUMN: 0.9}), planted({COLUMN: 0.2})
    cut = other.iloc[100:].sample(frac=1.0, random_state=1)
    both = joined_pair(one.iloc[:-50], cut, {COLUMN: COLUMN})
    assert len(both) == len(one) - 150
    rows = slice(100, len(one) - 50)
    np.testing.assert_array_equal(both[f"with {COLUMN}"], one[COLUMN][rows])
    np.testing.assert_array_equal(both[f"without {COLUMN}"], other[COLUMN][rows])
    np.testing.assert_array_equal(both["label"], one["label"][rows])
    assert both["ts_init"].is_monotonic_increasing


def test_pairs_that_cannot_be_compared_are_refused() -> None:
    one, other = planted({COLUMN: 0.9}), planted({COLUMN: 0.9}, seed=1)
    with pytest.raises(DataError, match="must have the same labels, has not"):
        joined_pair(one, other, {COLUMN: COLUMN})
    with pytest.raises(DataError, match="must have rows in common, has none"):
        joined_pair(one.iloc[:10], one.iloc[20:], {COLUMN: COLUMN})


@pytest.mark.parametrize(
    ("verdicts", "one"),
    [
        ([], NOT_SHOWN),
        ([NOT_SHOWN, EARNS], EARNS),
        ([EARNS, HARMS, NOT_SHOWN], HARMS),
        ([NOT_SHOWN], NOT_SHOWN),
    ],
)
def test_the_least_favourable_judge_counts(verdicts: list[str], one: str) -> None:
    assert overall_verdict(verdicts) == one


def whole_frame() -> pd.DataFrame:
    frame = planted({"expert_lightgbm": 0.6, "expert_lstm": 0.5, "prob_up": 0.6})
    weights: dict[str, Any] = {"weight_lightgbm": 0.5, "weight_lstm": 0.5, "regime": "trend"}
    return frame.assign(last_sign_prob=0.5, logistic_prob=0.5, **weights)


def test_an_expert_that_never_answers_ends_no_study() -> None:
    frame = whole_frame().assign(expert_lstm=np.nan)
    found = horizon_record(frame, (), VALUES, FAST)
    lstm = next(one for one in found["measures"] if one["name"] == "lstm")
    assert lstm["answered"] == 0.0
    assert lstm["auc"] == {"value": None, "low": None, "high": None}
    assert "lstm" not in {one["name"] for one in found["comparisons"]}
    assert "lstm" not in found["reliability"]


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 100)])
def test_a_baseline_that_hardly_answers_ends_no_study(rows: slice) -> None:
    frame = whole_frame()
    said = frame["expert_lightgbm"].to_numpy().copy()
    frame["expert_lightgbm"] = np.nan
    frame.loc[frame.index[rows], "expert_lightgbm"] = said[rows]
    frame.loc[frame.index[rows], "expert_lstm"] = np.nan
    found = horizon_record(frame, (), VALUES, FAST)
    assert found["baseline"] == "lightgbm"
    assert "lstm" not in {one["name"] for one in found["comparisons"]}


def test_a_frame_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="must have labelled rows in the tested span, had none"):
        horizon_record(whole_frame().assign(label=np.nan), (), VALUES, FAST)
