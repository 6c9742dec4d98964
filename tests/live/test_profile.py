from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.timestamps import parse_time
from live.profile import dump_profile, load_profile, profile_names
from tests.strategies.settings import PLAIN, execution_yaml

MINIMAL = """
name: small
data:
  instruments: [BTCUSDT-PERP.BINANCE]
  interval: 15m
  start: 2024-01-01
  end: 2024-03-01
features: {funding: false}
label: {kind: forward_sign, horizon_bars: 1}
validation: {n_folds: 2, test_start: 2024-02-01}
strategy: {entry_threshold: 0.6, exit_threshold: 0.5, position_frac: 0.2}
""" + execution_yaml(latency_ms=250, slippage_bps=1.0, leverage=3)


def write(folder: Path, text: str) -> str:
    path = folder / "small.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_sound_and_named_after_its_file(name: str) -> None:
    assert load_profile(name).name == name


def test_profiles_that_the_issue_names_exist() -> None:
    assert {"perps-15m", "perps-swing", "synthetic"} <= set(profile_names())


def test_dumped_profile_reads_back_equal(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, MINIMAL))
    again = load_profile(write(tmp_path, dump_profile(profile)))
    assert again == profile
    assert again.content_hash() == profile.content_hash()


def test_dates_become_nanoseconds(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, MINIMAL))
    assert profile.data.start == parse_time("2024-01-01")


@pytest.mark.parametrize("key", list(PLAIN))
def test_every_cost_must_be_stated(tmp_path: Path, key: str) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.strip().startswith(f"{key}:")]
    with pytest.raises(ConfigError, match=rf"execution\.{key}: must be given"):
        load_profile(write(tmp_path, "\n".join(lines)))


def test_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    text = MINIMAL.replace("entry_threshold", "entry_treshold")
    with pytest.raises(
        ConfigError, match=r"strategy\.entry_treshold: unknown key; did you mean 'entry_threshold'"
    ):
        load_profile(write(tmp_path, text))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    text = MINIMAL.replace("interval: 15m", "interval: 7m").replace("latency_ms: 250", "lag: 1")
    with pytest.raises(ConfigError) as caught:
        load_profile(write(tmp_path, text))
    for part in ("interval must be one of", "execution.lag: unknown key", "execution.latency_ms"):
        assert part in str(caught.value)


def test_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'perps-15m'"):
        load_profile("perp-15m")


def test_missing_file_and_wrong_yaml_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_profile(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="must be YAML"):
        load_profile(write(tmp_path, "a: [1"))
    for text in ("a: 2024-13-01", "a: 2024-02-30", "[" * 3000, "seed: 7\nseed: 9"):
        with pytest.raises(ConfigError, match="must be YAML"):
            load_profile(write(tmp_path, text))
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_profile(write(tmp_path, "- 1"))


def test_override_changes_one_key_and_the_hash(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    changed = load_profile(path, ["strategy.entry_threshold=0.7"])
    assert changed.strategy.entry_threshold == 0.7
    assert changed.content_hash() != load_profile(path).content_hash()


@pytest.mark.parametrize(
    "override", ["strategy.entry_threshold", "=1", "name.deeper=1", "data.start=2024-13-01"]
)
def test_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_profile(write(tmp_path, MINIMAL), [override])


def test_one_seed_reaches_every_part(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, MINIMAL), ["seed=99"])
    assert profile.experts.lightgbm is not None
    assert profile.experts.lightgbm.seed == 99
    assert profile.bootstrap.seed == 99
    experts = profile.walk_forward_config().experts
    assert experts.lightgbm is not None
    assert experts.lightgbm.seed == 99


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        ([], None),
        (["strategy.entry_threshold=swept"], 12.0),
        (["strategy.entry_threshold=swept", "execution.taker_fee_bps=2"], 6.0),
        (["strategy.entry_threshold=swept", "thresholds.cost_bps=30"], 30.0),
    ],
)
def test_a_swept_threshold_pays_what_the_profile_says_trading_costs(
    tmp_path: Path, overrides: list[str], cost: float | None
) -> None:
    profile = load_profile(write(tmp_path, MINIMAL), overrides)
    assert profile.walk_forward_config().thresholds.cost_bps == cost


def test_span_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="end must be after start"):
        load_profile(write(tmp_path, MINIMAL), ["data.end=2023-01-01"])
