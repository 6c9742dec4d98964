"""The frame of what was published says what the predictions said, chunk by chunk."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.predictor import Prediction
from strategies import prediction_log
from strategies.prediction_log import PREDICTION_COLUMNS, PredictionLog

NAMES = ("BTC", "ETH")
unknown = st.just(math.nan) | st.floats(-1.0, 1.0)


@st.composite
def predictions(draw):
    experts = draw(st.lists(st.sampled_from(["lstm", "tft", "sentiment"]), unique=True))
    ages = draw(st.lists(st.sampled_from(["index.dvol.btc", "news.x"]), unique=True))
    return Prediction(
        draw(st.sampled_from(NAMES)),
        draw(st.integers(0, 2**62)),
        draw(st.floats(0.01, 0.99)),
        4,
        "v",
        draw(st.booleans()),
        draw(st.sampled_from(["", "stale", "undefined features: a, b"])),
        *(draw(unknown) for _ in range(7)),
        draw(st.none() | st.sampled_from([-1, 0, 1])),
        draw(st.sampled_from(["", "trend", "neutral"])),
        tuple((name, draw(unknown), draw(st.floats(0, 1))) for name in experts),
        tuple((name, draw(unknown)) for name in ages),
    )


def expected(prediction: Prediction, missing: str) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(prediction, name) for name in PREDICTION_COLUMNS}
    found["side"] = prediction.direction
    found["degraded"] = prediction.degraded or missing != ""
    found["degraded_reason"] = prediction.degraded_reason or missing
    for name, probability, weight in prediction.experts:
        found |= {f"expert_{name}": probability, f"weight_{name}": weight}
    return found | {f"age_{name}": bars for name, bars in prediction.input_ages}


@given(
    st.lists(st.tuples(predictions(), st.sampled_from(["", "no bar of ETH"])), max_size=20),
    st.integers(1, 7),
)
def test_the_frame_says_what_was_published_whatever_the_chunk(rows, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction_log, "_CHUNK", chunk)
        log = PredictionLog(NAMES)
        for prediction, missing in rows:
            log.add(prediction, missing)
        assert len(log) == len(rows)
        frame = log.frame()
    assert len(frame) == len(rows)
    assert tuple(frame.columns[: len(PREDICTION_COLUMNS)]) == PREDICTION_COLUMNS
    for found, (prediction, missing) in zip(frame.to_dict("records"), rows, strict=True):
        wanted = expected(prediction, missing)
        for name, value in found.items():
            other = wanted.get(name, math.nan)
            assert value == other or (math.isnan(value) and math.isnan(other)), name


def test_columns_have_the_same_types_with_and_without_rows():
    log = PredictionLog(NAMES)
    empty = log.frame().dtypes
    log.add(Prediction("ETH", 1, 0.6, 4, "v"), "")
    assert (log.frame().dtypes == empty).all()
    kinds = "".join(empty[name].kind for name in ("ts_init", "side", "degraded", "prob_up"))
    assert kinds == "iibf"
    assert empty["regime"].kind == empty["instrument_id"].kind == "O"


def test_without_a_threshold_the_side_is_that_of_the_probability():
    sides = [Prediction("ETH", 1, up, 1, "v").direction for up in (0.4, 0.5, 0.6)]
    assert sides == [-1, 0, 1]
    assert Prediction("ETH", 1, 0.9, 1, "v", side=0).direction == 0
