"""What a study runs: each pair differs in the input that it names, and in nothing else."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.errors import ConfigError
from catalog.instruments import bar_type
from catalog.timestamps import parse_time
from research.features import FeatureConfig, feature_table
from research.labels import LabelConfig
from research.models.deep.config import LSTMConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.models.sentiment import SentimentConfig
from research.settings import WalkForwardConfig
from research.splits import ValidationConfig
from research.staleness import StalenessConfig
from research.study_inputs import INPUTS, MIRROR, NEWS, Stored
from research.study_plan import (
    InputPair,
    NewsSpan,
    StudyConfig,
    StudyMarket,
    StudyPlan,
    Variant,
    plan_study,
)
from tests.research.markets import BTC, ETH, INSTRUMENTS

MARKET = StudyMarket(INSTRUMENTS, "15m", parse_time("2023-01-01"), parse_time("2025-01-01"))
STORED: Stored = {
    ("onchain", "coinmetrics.btc"),
    ("index", "dvol.btc"),
    ("index", "dvol.eth"),
    ("index", "fear_greed"),
    ("news", "bitcoin_news_2021_2023"),
    *(("funding", name) for name in INSTRUMENTS),
    *(("bar_flow", bar_type(name, "15m")) for name in INSTRUMENTS),
    *(("bars", bar_type(name, "1m")) for name in INSTRUMENTS),
}
FIELDS = {
    "smc": {"smc"},
    "timeframes": {"timeframes"},
    "cross": {"lead", "peers", "ratios", "cross"},
    "relations": {"cross"},
    "slow": {"onchain", "dvol", "fear_greed"},
    "onchain": {"onchain"},
    "dvol": {"dvol"},
    "fear_greed": {"fear_greed"},
    "funding": {"funding", "funding_terms"},
    "funding_terms": {"funding_terms"},
    "regime": {"regime"},
    "flow": {"flow"},
    "path": {"path"},
    NEWS: {"news"},
    MIRROR: set[str](),
}
"""What each input may change among the features: written by hand, not read from the code."""

features = st.builds(
    FeatureConfig,
    lead=st.just(BTC),
    peers=st.booleans(),
    ratios=st.sampled_from([(), ((BTC, ETH),)]),
    funding=st.just(True),
    smc=st.booleans(),
    timeframes=st.sampled_from([(), ("1h",), ("1h", "4h")]),
    cross=st.booleans(),
    regime=st.booleans(),
    flow=st.booleans(),
    path=st.booleans(),
    onchain=st.sampled_from([None, "coinmetrics.btc"]),
    dvol=st.sampled_from([(), ("dvol.btc",)]),
    fear_greed=st.sampled_from([None, "fear_greed"]),
    news=st.sampled_from([(), ("bitcoin_news_2021_2023",)]),
    funding_terms=st.booleans(),
)
experts = st.builds(
    ExpertsConfig,
    lightgbm=st.builds(LightGBMConfig, mirror=st.booleans()),
    lstm=st.none() | st.builds(LSTMConfig, mirror=st.booleans()),
    heuristic=st.none() | st.just(HeuristicConfig()),
)


def base(
    *, feature: FeatureConfig | None = None, expert: ExpertsConfig | None = None
) -> WalkForwardConfig:
    return WalkForwardConfig(
        features=FeatureConfig(lead=BTC) if feature is None else feature,
        label=LabelConfig(horizon_bars=1),
        experts=ExpertsConfig() if expert is None else expert,
        validation=ValidationConfig(n_folds=2, test_start=parse_time("2024-01-01")),
    )


def plan_of(config: WalkForwardConfig, stored: Stored = STORED, **study: Any) -> StudyPlan:
    return plan_study(config, MARKET, StudyConfig(**{"horizons": (1, 4), **study}), stored)


def named(plan: StudyPlan, name: str) -> Variant:
    (found,) = [one for one in plan.variants if one.name == name]
    return found


def parts(config: WalkForwardConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in WalkForwardConfig.model_fields}


def changed(one: Any, other: Any) -> set[str]:
    return {name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)}


def check_pair(plan: StudyPlan, pair: InputPair, judges: tuple[str, ...]) -> None:
    """Check that two walk-forwards differ in the input alone, as far as the judges can see."""
    with_it, without = named(plan, pair.with_it), named(plan, pair.without)
    assert with_it.horizon == without.horizon == pair.horizon
    assert with_it.end == without.end
    one, other = with_it.config, without.config
    differing = changed(one, other) - {"experts", "staleness"}
    assert differing == (set() if pair.name == MIRROR else {"features"})
    assert changed(one.features, other.features) <= FIELDS[pair.name]
    more = {column.name for column in feature_table(one.features)}
    fewer = {column.name for column in feature_table(other.features)}
    assert (more == fewer) if pair.name == MIRROR else (fewer < more)
    for judge in judges:
        mine, theirs = getattr(one.experts, judge), getattr(other.experts, judge)
        assert mine is not None
        assert changed(mine, theirs) <= ({MIRROR} if pair.name == MIRROR else set())
    # What is compared is what both have, and where the fusion judges, it is of the same experts.
    for new, old in pair.columns.items():
        assert new == old
        if new == "prob_up":
            assert one.experts.chosen().keys() == other.experts.chosen().keys()
        else:
            assert new.removeprefix("expert_") in judges
    assert pair.columns


@settings(max_examples=60, deadline=None)
@given(features, experts, st.booleans(), st.booleans())
def test_a_pair_differs_in_its_input_and_in_nothing_else(
    feature: FeatureConfig, expert: ExpertsConfig, everything: bool, all_judge: bool
) -> None:
    config = base(feature=feature, expert=expert)
    judges = tuple(expert.chosen()) if all_judge else ("lightgbm",)
    plan = plan_of(config, inputs=tuple(INPUTS), everything=everything, input_experts=judges)
    assert plan.left_out == {}
    assert Counter(pair.name for pair in plan.pairs) == dict.fromkeys(INPUTS, 2)
    names = [one.name for one in plan.variants]
    assert len(set(names)) == len(names)
    for pair in plan.pairs:
        check_pair(plan, pair, judges)


@settings(max_examples=30, deadline=None)
@given(features, experts, st.booleans())
def test_the_side_that_is_the_configuration_is_the_one_that_it_says(
    feature: FeatureConfig, expert: ExpertsConfig, everything: bool
) -> None:
    config = base(feature=feature, expert=expert)
    plan = plan_of(config, inputs=tuple(INPUTS), everything=everything)
    for pair in plan.pairs:
        own = any(
            getattr(feature, name) != FeatureConfig.model_fields[name].default
            for name in FIELDS[pair.name]
        )
        if pair.name == MIRROR:
            assert expert.lightgbm is not None
            own = expert.lightgbm.mirror
        if pair.name in ("funding", "cross"):
            own = True  # funding is on by default, and there is a lead
        assert pair.is_on == own
        if not everything and pair.name != NEWS:
            assert (pair.with_it if own else pair.without) == f"h{pair.horizon}"
    for horizon in (1, 4):
        main = named(plan, f"h{horizon}")
        assert parts(main.config) == {
            **parts(config),
            "label": config.label.model_copy(update={"horizon_bars": horizon}),
        }
        assert main.alternatives


def test_everything_has_it_all_and_the_others_lack_one() -> None:
    plan = plan_of(base(), inputs=("smc", "cross", "slow", "mirror"), everything=True)
    rich = named(plan, "h1-everything").config
    assert rich.features == FeatureConfig(
        lead=BTC,
        peers=True,
        cross=True,
        smc=True,
        onchain="coinmetrics.btc",
        dvol=("dvol.btc", "dvol.eth"),
        fear_greed="fear_greed",
    )
    assert rich.experts.lightgbm == LightGBMConfig(mirror=True)
    assert [pair.with_it for pair in plan.pairs[:4]] == ["h1-everything"] * 4
    assert [pair.is_on for pair in plan.pairs[:4]] == [False, True, False, False]


def test_limits_of_inputs_that_go_go_too() -> None:
    config = base(feature=FeatureConfig(lead=BTC, fear_greed="fear_greed"))
    limits = StalenessConfig(flat_bars={"fear_greed": 96, "funding": 96})
    plan = plan_of(config.model_copy(update={"staleness": limits}), inputs=("fear_greed",))
    without = named(plan, "h1-without-fear_greed").config
    assert without.staleness.flat_bars == {
        name: bars for name, bars in limits.flat_bars.items() if name != "fear_greed"
    }


@pytest.mark.parametrize("kind", ["onchain", "index", "news", "funding", "bar_flow", "bars"])
def test_what_a_catalog_cannot_feed_is_left_out_with_a_reason(kind: str) -> None:
    needing = {
        "onchain": {"slow", "onchain"},
        "index": {"slow", "dvol", "fear_greed"},
        "news": {NEWS},
        "funding": {"funding", "funding_terms"},
        "bar_flow": {"flow"},
        "bars": {"path"},
    }
    lean = {(one, name) for one, name in STORED if one != kind}
    plan = plan_of(base(), lean, inputs=tuple(INPUTS))
    assert set(plan.left_out) == needing[kind]
    absent = {name for one, name in STORED if one == kind}
    for reason in plan.left_out.values():
        assert reason.startswith("the catalog has no ")
        assert any(name in reason for name in absent)
    assert {pair.name for pair in plan.pairs} == set(INPUTS) - needing[kind]


def test_a_configurations_own_series_count_not_the_usual_ones() -> None:
    feature = FeatureConfig(lead=BTC, dvol=("dvol.sol",), onchain="other.btc", fear_greed="mine")
    own = {("index", "dvol.sol"), ("index", "mine"), ("onchain", "other.btc")}
    plan = plan_of(base(feature=feature), own, inputs=("slow", "dvol", "onchain", "fear_greed"))
    assert plan.left_out == {}
    assert all(pair.with_it == f"h{pair.horizon}" for pair in plan.pairs)


@pytest.mark.parametrize(
    ("market", "study", "feature", "told"),
    [
        ({"instruments": (BTC,)}, {}, {}, {"cross": "one instrument", "relations": "one"}),
        ({}, {}, {"lead": None}, {"relations": "there is no lead"}),
        ({}, {}, {"funding": False}, {"funding_terms": "there is no funding rate"}),
        ({}, {"timeframes": ()}, {}, {"timeframes": "none is named"}),
        ({"interval": "1h"}, {}, {}, {"timeframes": r"multiples of the base bar \(1h\)"}),
        ({}, {"dvol": ()}, {}, {"dvol": "none is named"}),
        ({"start": parse_time("2023-07-01")}, {}, {}, {NEWS: "begins .*, after the tested"}),
        ({"end": parse_time("2023-12-18")}, {}, {}, {NEWS: "ends .*, before the tested"}),
    ],
)
def test_what_makes_no_sense_is_left_out_with_a_reason(
    market: dict[str, Any], study: dict[str, Any], feature: dict[str, Any], told: dict[str, str]
) -> None:
    span = {name: getattr(MARKET, name) for name in ("instruments", "interval", "start", "end")}
    stored = {*STORED, *(("bar_flow", bar_type(name, "1h")) for name in INSTRUMENTS)}
    plan = plan_study(
        base(feature=FeatureConfig(**{"lead": BTC, **feature})),
        StudyMarket(**{**span, **market}),
        StudyConfig(horizons=(1,), inputs=tuple(INPUTS), **study),
        stored,
    )
    assert plan.left_out.keys() == told.keys()
    for name, words in told.items():
        assert re.search(words, plan.left_out[name]), plan.left_out[name]


def test_mirror_is_judged_by_those_that_it_changes() -> None:
    expert = ExpertsConfig(lightgbm=LightGBMConfig(mirror=True), lstm=LSTMConfig(mirror=False))
    plan = plan_of(
        base(expert=expert), inputs=(MIRROR,), input_experts=("lightgbm", "lstm"), horizons=(1,)
    )
    assert [set(pair.columns) for pair in plan.pairs] == [{"expert_lightgbm", "prob_up"}]


def test_who_is_fitted_on_nothing_judges_nothing() -> None:
    expert = ExpertsConfig(
        lightgbm=LightGBMConfig(), lstm=LSTMConfig(), heuristic=HeuristicConfig()
    )
    judges = ("lightgbm", "lstm", "heuristic")
    plan = plan_of(base(expert=expert), inputs=("smc",), input_experts=judges)
    assert set(plan.pairs[0].columns) == {"expert_lightgbm", "expert_lstm", "prob_up"}
    config = base(expert=ExpertsConfig(lightgbm=LightGBMConfig(), heuristic=HeuristicConfig()))
    with pytest.raises(ConfigError, match="must be fitted on all features, heuristic are not"):
        plan_of(config, inputs=("smc",), input_experts=("heuristic",))
    assert plan_of(config, inputs=(), input_experts=("heuristic",)).pairs == ()


def test_news_is_tested_in_its_own_span_with_its_own_expert() -> None:
    feature = FeatureConfig(lead=BTC, news=("bitcoin_news_2021_2023",))
    own = SentimentConfig(prior_scale=0.5)
    config = base(feature=feature, expert=ExpertsConfig(lightgbm=LightGBMConfig(), sentiment=own))
    plan = plan_of(config, inputs=(NEWS,), horizons=(4,), input_experts=("lightgbm", "sentiment"))
    assert [one.name for one in plan.variants] == [
        "h4",
        "h4-2023-without-news",
        "h4-2023-with-news",
    ]
    without, full = (one.config for one in plan.variants[1:])
    assert without.experts.sentiment is None
    assert without.features.news == ()
    assert full.experts.sentiment == own
    for one in plan.variants[1:]:
        assert one.end == one.config.validation.test_end == parse_time("2023-12-19")
        assert one.config.validation.test_start == parse_time("2023-07-01")
        assert one.config.validation.n_folds == 3
    assert plan.variants[2].subsets == {
        "without_lightgbm": ("sentiment",),
        "without_sentiment": ("lightgbm",),
    }
    assert [set(pair.columns) for pair in plan.pairs] == [{"expert_lightgbm"}]


@pytest.mark.parametrize(
    ("names", "default", "subsets"),
    [
        (["lightgbm"], None, {}),
        (["lightgbm", "heuristic"], None, {"with_heuristic": ("lightgbm", "heuristic")}),
        (["heuristic"], None, {}),
        (
            ["lightgbm", "lstm", "heuristic"],
            ("lightgbm", "lstm", "heuristic"),
            {
                "without_lightgbm": ("lstm",),
                "without_lstm": ("lightgbm",),
                "with_heuristic": ("lightgbm", "lstm", "heuristic"),
            },
        ),
        (
            ["lightgbm", "tft", "lstm"],
            ("lightgbm", "lstm", "sentiment"),
            {
                "without_lightgbm": ("tft", "lstm"),
                "without_tft": ("lightgbm", "lstm"),
                "without_lstm": ("lightgbm", "tft"),
                "of_default": ("lightgbm", "lstm"),
            },
        ),
    ],
)
def test_subsets_leave_one_out_or_take_a_stand_in_along(
    names: list[str], default: tuple[str, ...] | None, subsets: dict[str, tuple[str, ...]]
) -> None:
    chosen: dict[str, Any] = {
        name: {} if name in names else None for name in ExpertsConfig.model_fields
    }
    config = base(expert=ExpertsConfig.model_validate(chosen))
    study = StudyConfig(horizons=(1,), inputs=(), input_experts=(names[0],))
    (main,) = plan_study(config, MARKET, study, STORED, default).variants
    assert main.subsets == subsets


def test_experts_without_their_input_are_refused() -> None:
    config = base(expert=ExpertsConfig(lightgbm=LightGBMConfig(), sentiment=SentimentConfig()))
    with pytest.raises(ConfigError, match="must have news_score for the expert sentiment, had not"):
        plan_of(config)


def test_judges_must_be_among_the_experts() -> None:
    with pytest.raises(ConfigError, match="must be among the experts lightgbm, were lstm"):
        plan_of(base(), input_experts=("lstm",))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"horizons": (0,)}, "at least 1, were 0"),
        ({"horizons": (1, 2, 1)}, "different numbers of bars, at least 1, were 1, 2, 1"),
        ({"horizons": ()}, "at least 1 item"),
        ({"inputs": ("smoc",)}, "inputs must be different ones of smc, .*, were smoc"),
        ({"inputs": ("smc", "smc")}, "were smc, smc"),
        ({"input_experts": ("lstm", "lstm")}, "input experts must be different, were lstm, lstm"),
        ({"news": {"test_start": "2023-12-20"}}, "end must be after test_start .*2023-12-20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        StudyConfig.model_validate(wrong)


def test_the_year_of_the_news_is_that_of_its_test() -> None:
    span = {"test_start": "2022-12-31", "end": "2023-03-01"}
    assert NewsSpan.model_validate(span).year == "2022"
