from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from catalog.errors import ConfigError
from live.profile import PROFILE_FOLDER, Profile, load_profile
from live.profile_watch import SAFE, ProfileSource, ProfileWatch, changed_keys
from strategies.policy_config import FusionPolicy


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    shutil.copy(PROFILE_FOLDER / "perps-swing.yaml", tmp_path / "p.yaml")
    shutil.copy(PROFILE_FOLDER.parent / "risk_policy.yaml", tmp_path / "risk_policy.yaml")
    return tmp_path / "p.yaml"


def change(path: Path, **keys: object) -> None:
    content = yaml.safe_load(path.read_text())
    for key, value in keys.items():
        node = content
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(yaml.safe_dump(content))


def watch(path: Path, *overrides: str, fits: object = None) -> ProfileWatch:
    source = ProfileSource(str(path), overrides)
    check = fits or (lambda one: None)
    return ProfileWatch(source, load_profile(str(path), overrides), check)  # type: ignore[arg-type]


def test_what_each_decision_reads_anew_counts_without_a_restart(profile: Path) -> None:
    watched = watch(profile)
    assert watched.poll() is None
    change(profile, strategy__exit_threshold=0.51, strategy__cooldown_bars=8, description="new")
    found = watched.poll()
    assert found is not None
    assert found.keys == ("strategy.cooldown_bars", "strategy.exit_threshold")
    assert found.profile.strategy.cooldown_bars == 8
    assert watched.poll() is None


def test_the_risk_policys_own_file_is_followed(profile: Path) -> None:
    watched = watch(profile)
    change(profile.with_name("risk_policy.yaml"), max_positions=3)
    found = watched.poll()
    assert found is not None
    assert found.keys == ("strategy.risk",)
    assert found.profile.strategy.risk is not None
    assert found.profile.strategy.risk.max_positions == 3


def test_a_risk_policy_that_an_override_names_is_followed_as_well(profile: Path) -> None:
    strict = profile.with_name("strict.yaml")
    shutil.copy(profile.with_name("risk_policy.yaml"), strict)
    watched = watch(profile, "strategy.risk=strict.yaml")
    change(profile.with_name("risk_policy.yaml"), max_positions=2)
    assert watched.poll() is None
    change(strict, max_positions=3)
    found = watched.poll()
    assert found is not None
    assert found.profile.strategy.risk is not None
    assert found.profile.strategy.risk.max_positions == 3


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("features__peers", False, "features.peers"),
        ("strategy__stops__stop_vol_multiple", 3.0, "strategy.stops"),
        ("execution__latency_ms", 300, "execution.latency_ms"),
        ("label__horizon_bars", 8, "label.horizon_bars"),
    ],
)
def test_one_key_that_needs_a_restart_refuses_all_of_a_change(
    profile: Path, key: str, value: object, named: str
) -> None:
    watched = watch(profile)
    change(profile, strategy__cooldown_bars=8, **{key: value})
    found = watched.poll()
    assert found is not None
    assert found.keys == ()
    assert f"{named} changed as well: nothing was applied" in found.refused
    assert found.profile.strategy.cooldown_bars == 4
    assert watched.poll() is None, "told once"
    # Taken back, the rest counts.
    shutil.copy(PROFILE_FOLDER / "perps-swing.yaml", profile)
    change(profile, strategy__cooldown_bars=8)
    found = watched.poll()
    assert found is not None
    assert found.keys == ("strategy.cooldown_bars",)


def test_a_fault_or_a_missing_file_leaves_everything_as_it_was(profile: Path) -> None:
    watched = watch(profile)
    before = profile.read_text()
    for text, message in (("name: [", "must be YAML"), ("name: x\n", "fault")):
        profile.write_text(text)
        found = watched.poll()
        assert found is not None
        assert message in found.refused
    profile.unlink()
    found = watched.poll()
    assert found is not None
    assert "does not exist" in found.refused
    profile.write_text(before)
    assert watched.poll() is None, "as it was"


def test_what_does_not_fit_the_engine_is_refused_and_overrides_stay(profile: Path) -> None:
    asked: list[Profile] = []

    def fits(fresh: Profile) -> None:
        asked.append(fresh)
        raise ConfigError("the account cannot carry it")

    watched = watch(profile, "strategy.cooldown_bars=2", fits=fits)
    change(profile, strategy__cooldown_bars=8)
    assert watched.poll() is None, "the command line says 2"
    change(profile, strategy__position_frac=0.3)
    found = watched.poll()
    assert found is not None
    assert found.refused == "the account cannot carry it"
    assert asked[0].strategy.cooldown_bars == 2


def test_every_safe_key_is_one_of_the_strategy() -> None:
    known = {f"strategy.{name}" for name in FusionPolicy.model_fields}
    assert known >= SAFE
    assert known - SAFE == {"strategy.stop_loss_frac", "strategy.stops", "strategy.rebalance"}
    one = load_profile("perps-swing")
    assert changed_keys(one, one) == ()
