"""Limits of slow inputs: those of their kind, unless the settings say otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.errors import ConfigError
from catalog.timestamps import interval_ns
from live.profile import load_profile, profile_names
from research.feature_config import FeatureConfig
from research.feature_layout import feature_table
from research.groups import slow
from research.settings import predictor_spec
from research.slow_inputs import TEMPOS
from research.staleness import StalenessConfig, flat_limits, flat_reasons
from tests.research import experiments

QUARTER = interval_ns("15m")
SLOW = FeatureConfig(
    onchain="coinmetrics.btc",
    dvol=("dvol.btc", "dvol.eth"),
    fear_greed="fear_greed",
    news=("wire",),
    smc=True,
)
NAMES = tuple(feature.name for feature in feature_table(SLOW))
NAN = float("nan")


def test_every_slow_input_has_the_limit_of_its_kind_in_bars() -> None:
    daily = dict.fromkeys(
        ("onchain_addresses", "onchain_flows", "onchain_mvrv", "fear_greed", "news"), 288.0
    )
    hourly = {"dvol_btc": 48.0, "dvol_eth": 48.0}
    assert flat_limits(NAMES, StalenessConfig(), QUARTER) == {**daily, **hourly}
    hours = flat_limits(NAMES, StalenessConfig(), interval_ns("1h"))
    assert hours == {**dict.fromkeys(daily, 72.0), "dvol_btc": 12.0, "dvol_eth": 12.0}


def test_limits_are_where_the_features_themselves_become_undefined() -> None:
    assert TEMPOS["onchain_"].limit_ns == slow.DAILY_EXPIRES_NS
    assert TEMPOS["fear_greed_"].limit_ns == slow.DAILY_EXPIRES_NS
    assert TEMPOS["dvol_"].limit_ns == slow.HOURLY_EXPIRES_NS
    assert TEMPOS["news_"].limit_ns == slow.NEWS_SILENT_NS


def test_settings_come_before_the_limits_of_a_kind_and_null_is_none() -> None:
    stated = StalenessConfig(flat_bars={"news": 10, "dvol_btc": None})
    limits = flat_limits(NAMES, stated, QUARTER)
    assert limits["news"] == 10.0
    assert "dvol_btc" not in limits
    assert limits["dvol_eth"] == 48.0


def test_inputs_that_are_off_and_ages_of_the_market_have_no_limit() -> None:
    names = [feature.name for feature in feature_table(FeatureConfig(smc=True))]
    assert {"smc_break_age", "funding_age"} <= set(names)
    assert flat_limits(names, StalenessConfig(), QUARTER) == {}


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_are_what_they_were_without_limits(name: str) -> None:
    profile = load_profile(name)
    names = [feature.name for feature in feature_table(profile.features)]
    assert flat_limits(names, profile.staleness, interval_ns(profile.data.interval)) == {}


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"flat_bars must name inputs .*fear_greed.*named weather"
    ):
        flat_limits(NAMES, StalenessConfig(flat_bars={"weather": 5}), QUARTER)


@pytest.mark.parametrize("age", [0.0, -1.0])
def test_an_age_that_is_none_is_refused(age: float) -> None:
    with pytest.raises(ValidationError, match="positive ages in bars, or null"):
        StalenessConfig(flat_bars={"news": age})


@settings(max_examples=100, deadline=None)
@given(
    ages=st.lists(
        st.tuples(*[st.one_of(st.just(NAN), st.floats(0, 600)) for _ in range(2)]), max_size=20
    )
)
def test_rows_are_flat_exactly_where_an_age_is_over_its_limit_or_unknown(
    ages: list[tuple[float, float]],
) -> None:
    values = np.array(ages, dtype=np.float64).reshape(-1, 2)
    reasons = flat_reasons(values, ("news_age", "dvol_btc_age"), {"news": 288.0, "dvol_btc": 48.0})
    expected = {
        row
        for row, (news, dvol) in enumerate(ages)
        if news != news or dvol != dvol or news > 288.0 or dvol > 48.0
    }
    assert reasons.keys() == expected


def test_the_reason_names_input_age_and_limit() -> None:
    values = np.array([[288.0, NAN], [288.5, 0.0], [288.0, 48.0]])
    reasons = flat_reasons(values, ("news_age", "dvol_btc_age"), {"news": 288.0, "dvol_btc": 48.0})
    assert reasons == {0: "dvol_btc was never seen", 1: "news is 288.5 bars old, more than 288"}


def test_limits_of_a_kind_are_part_of_a_models_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = experiments.config()
    with_news = plain.model_copy(update={"features": SLOW})

    def fusing(config: object) -> str:
        return dict(predictor_spec(config, ("A", "B"), QUARTER).parts)["fusion"]  # type: ignore[arg-type]

    before, slow_before = fusing(plain), fusing(with_news)
    assert slow_before != before
    monkeypatch.setitem(TEMPOS, "news_", TEMPOS["news_"]._replace(periods=9))
    from research import staleness

    staleness._usual_limits.cache_clear()
    assert fusing(plain) == before
    assert fusing(with_news) != slow_before
    monkeypatch.undo()
    staleness._usual_limits.cache_clear()
