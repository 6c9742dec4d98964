"""Search spaces: what may be tuned, where, and how far apart two configurations are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.errors import ConfigError
from live.profile import load_profile, parse_profile, profile_names
from live.tuning_request import SPACE_FOLDER, TuneOptions, read_space, tuning_request
from research.tuning_space import ParameterRange, SearchSpace, setting, with_settings

WHOLE = ParameterRange(low=3, high=8)
LOG = ParameterRange(low=0.01, high=1.0, log=True)
STEPS = ParameterRange(low=0.5, high=0.63, step=0.005)
CHOICES = ParameterRange(choices=(1, 2, 16))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 1}, "either low and high, or choices"),
        ({"low": 1, "high": 2, "choices": (1, 2)}, "either low and high, or choices"),
        ({"low": 2, "high": 2}, "high must be above low"),
        ({"low": 0.0, "high": 1.0, "log": True}, "positive low"),
        ({"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "no step"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "step must lead from low to high"),
        ({"choices": (1, 2), "log": True}, "stand without"),
        ({"choices": (1, 1)}, "different ones"),
    ],
)
def test_a_range_that_says_nothing_clear_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ParameterRange(**given)


def test_what_is_no_matter_of_choice_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"had execution\.taker_fee_bps"):
        SearchSpace(parameters={"execution.taker_fee_bps": ParameterRange(low=0.0, high=5.0)})


def test_positions_are_written_out_by_hand() -> None:
    assert [WHOLE.position(value) for value in (3, 8)] == [0.0, 1.0]
    assert [LOG.position(value) for value in (0.01, 0.1, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert [CHOICES.position(value) for value in (1, 2, 16)] == [0.0, 1.0, 2.0]


def test_distances_are_gowers() -> None:
    space = SearchSpace(parameters={"label.horizon_bars": CHOICES, "strategy.position_frac": LOG})
    points = [
        {"label.horizon_bars": 1, "strategy.position_frac": 0.01},
        {"label.horizon_bars": 16, "strategy.position_frac": 0.01},
        {"label.horizon_bars": 1, "strategy.position_frac": 0.1},
    ]
    wanted = [[0.0, 0.5, 0.25], [0.5, 0.0, 0.75], [0.25, 0.75, 0.0]]
    assert space.distances(points) == pytest.approx(np.array(wanted))


@given(st.integers(0, 26))
def test_steps_are_counted_in_decimals(count: int) -> None:
    space = SearchSpace(parameters={"strategy.entry_threshold": STEPS})
    raw = 0.5 + count * 0.005
    (value,) = space.written({"strategy.entry_threshold": raw}).values()
    assert len(str(value)) <= len("0.555")
    assert value == pytest.approx(raw)
    assert 0.5 <= value <= 0.63


@given(st.floats(0.01, 1.0))
def test_what_is_written_stays_inside(raw: float) -> None:
    value = LOG.written(raw)
    assert isinstance(value, float)
    assert 0.01 <= value <= 1.0
    assert value == pytest.approx(raw, rel=1e-3)


@pytest.mark.parametrize("one", [WHOLE, LOG, STEPS, CHOICES], ids=["whole", "log", "steps", "any"])
def test_what_is_drawn_is_what_its_distribution_says(one: ParameterRange) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        value = one.suggest(trial, "x")
        assert trial.distributions["x"] == one.distribution()
        if one.choices is None:
            assert 0.0 <= one.position(value) <= 1.0
            assert isinstance(value, int) == one.is_whole
        study.tell(trial, 0.0)


def test_settings_are_replaced_by_key_and_the_rest_left_alone() -> None:
    content = {"strategy": {"stops": {"min_frac": 0.1}, "risk": None}, "seed": 7}
    changed = with_settings(content, {"strategy.stops.min_frac": 0.2, "seed": 8})
    assert changed == {"strategy": {"stops": {"min_frac": 0.2}, "risk": None}, "seed": 8}
    assert setting(content, "strategy.stops.min_frac") == 0.1
    with pytest.raises(ConfigError, match=r"strategy\.risk\.sizing must belong to a part"):
        with_settings(content, {"strategy.risk.sizing": 1})


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_a_space_whose_corners_are_profiles(name: str, tmp_path: Path) -> None:
    """Neither all the lowest nor all the highest values, nor any choice, contradict each other."""
    request = tuning_request(load_profile(name), tmp_path, tmp_path, TuneOptions())
    space = request.space.parameters
    corners: list[dict[str, Any]] = [
        {key: one.choices[at] if one.choices else one.ends[at] for key, one in space.items()}
        for at in (0, -1)
    ]
    for values in corners:
        profile = parse_profile(with_settings(request.content, values), name)
        written = profile.model_dump(mode="json")
        assert {key: setting(written, key) for key in space} == values
    assert request.space.fit_keys
    assert request.space.trade_keys


def test_a_profile_is_asked_only_what_it_has_a_use_for() -> None:
    space = read_space(SPACE_FOLDER / "default.yaml")

    def fitting(*overrides: str) -> set[str]:
        content = load_profile("synthetic", overrides).model_dump(mode="json")
        return set(space.fitting(content, strict=False).parameters)

    plain = fitting()
    assert "experts.lightgbm.max_depth" in plain  # though the profile leaves it open
    assert not any(key.startswith(("fusion", "experts.lstm", "strategy.sizing")) for key in plain)
    # The heuristic is part of no fusion.
    assert fitting("experts.lightgbm={}", "experts.heuristic={}") == plain
    two = fitting("experts.lightgbm={}", "experts.lstm={}")
    assert {"fusion.method", "experts.lstm.d_model"} <= two
    assert "strategy.sizing.fraction" in fitting("strategy.sizing={method: kelly}")
    assert "strategy.sizing.fraction" not in fitting("strategy.sizing={method: fixed}")
    assert "strategy.entry_threshold" not in fitting("strategy.entry_threshold=swept")
    assert "strategy.stop_loss_frac" not in fitting("strategy.stop_loss_frac=null")


def test_a_parameter_that_was_asked_for_must_mean_something(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    parameters = {"strategy.sizing.fraction": {"low": 0.1, "high": 0.5}}
    path.write_text(yaml.safe_dump({"parameters": parameters}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"fraction: the profile has no strategy\.sizing"):
        tuning_request(load_profile("synthetic"), tmp_path, tmp_path, TuneOptions(), path)
    path.write_text("parameters: {strategy.position_frac: {low: 2.0, hihg: 1.0}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="hihg"):
        read_space(path)


def test_skill_asks_nothing_about_trades(tmp_path: Path) -> None:
    options = TuneOptions(objective="skill")
    request = tuning_request(load_profile("synthetic"), tmp_path, tmp_path, options)
    assert not request.space.trade_keys
    path = tmp_path / "space.yaml"
    path.write_text("parameters: {strategy.position_frac: {low: 0.1, high: 0.5}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="needs parameters that decide predictions"):
        tuning_request(load_profile("synthetic"), tmp_path, tmp_path, options, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "profit"}, "--objective must be one of sharpe, skill, both, was 'profit'"),
        ({"trials": 0}, "--trials must be at least 1, was 0"),
        ({"folds": 1}, "--folds must be at least 2"),
        ({"trials_per_fit": 0}, "--trials-per-fit must be at least 1"),
        ({"tested_frac": 1.0}, "--tested-frac must lie between 0 and 1"),
        ({"storage": "here.db"}, "--storage must be a database URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuneOptions(**options)
