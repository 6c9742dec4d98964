from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigError
from catalog.timestamps import parse_time
from live import engine
from live.cli import app
from live.engine_request import EngineRequest
from live.profile import PROFILE_FOLDER, dump_profile, load_profile, profile_names
from live.profile_watch import changed_keys
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


def test_a_breaker_can_be_set_and_has_no_limit_on_time_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    profile = load_profile(path, ["breaker.first_bars=2", "breaker.max_bars=8"])
    assert (profile.breaker.first_bars, profile.breaker.max_bars) == (2, 8)
    assert profile.breaker.timeout_ms is None
    assert load_profile(path, ["breaker.timeout_ms=50"]).breaker.timeout_ms == 50.0
    with pytest.raises(ConfigError, match="max_bars must be at least first_bars"):
        load_profile(path, ["breaker.first_bars=900"])
    # It is no part of what a model is: predictions made under another one are still good.
    plain = load_profile(path)
    assert plain.breaker.timeout_ms is None
    assert profile.walk_forward_config() == plain.walk_forward_config()
    assert profile.content_hash() != plain.content_hash()


def test_what_only_a_live_engine_asks_for_is_no_part_of_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL)
    plain, claiming = load_profile(path), load_profile(path, ["live.claim=true"])
    assert (plain.live.claim, claiming.live.claim) == (False, True)
    assert claiming.content_hash() == plain.content_hash()
    assert "live.claim" in changed_keys(plain, claiming)
    with pytest.raises(ConfigError, match=r"live\.clam"):
        load_profile(path, ["live.clam=true"])
    asked: list[bool] = []

    def refuse(request: EngineRequest, _: object) -> None:
        asked.append(request.claims)
        raise ConfigError("not now")

    monkeypatch.setattr(engine, "run_engine", refuse)
    monkeypatch.setattr(engine, "publish_failure", lambda *_: None)
    options = ["--profile", "perps-swing", "--bundle", str(tmp_path)]
    for more in ([], ["--claim"], ["--set", "live.claim=true"]):
        CliRunner().invoke(app, ["live", "run", *options, *more])
    CliRunner().invoke(app, ["live", "run", *options, "--set", "live.claim=true", "--no-claim"])
    assert asked == [False, True, True, False]


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


def test_a_risk_policy_is_named_by_its_file_and_kept_as_what_it_says(tmp_path: Path) -> None:
    small = write(tmp_path, MINIMAL)
    assert load_profile(small).strategy.risk is None
    shipped = load_profile(small, [f"strategy.risk={PROFILE_FOLDER.parent / 'risk_policy.yaml'}"])
    assert shipped.strategy.risk is not None
    assert shipped.strategy.risk.max_daily_loss == 0.03
    # A shipped profile finds the shipped policy by its name.
    by_name = load_profile("perps-swing", ["strategy.risk=risk_policy.yaml"]).strategy.risk
    assert by_name == shipped.strategy.risk
    again = tmp_path / "again.yaml"
    again.write_text(dump_profile(shipped), encoding="utf-8")
    assert load_profile(str(again)) == shipped
    with pytest.raises(ConfigError, match="risk policy"):
        load_profile(small, ["strategy.risk=nowhere.yaml"])


def test_span_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="end must be after start"):
        load_profile(write(tmp_path, MINIMAL), ["data.end=2023-01-01"])


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["features.peers=true"], "features.peers must have other instruments"),
        (["features.lead=XRP"], "features.lead must be of one of BTCUSDT-PERP.BINANCE"),
        (["features.timeframes=[5m]"], "features.timeframes must be multiples of the base bar"),
        (["staleness.flat_bars={news: 10}"], "staleness.flat_bars must name inputs"),
        (["experts.sentiment={}"], "experts.sentiment must have the features news_score"),
        (["label.kind=meta"], "label.kind must be forward_sign"),
        (["fusion.method=regime"], "fusion.method must be another than regime"),
        (
            ["fusion.fixed_weights={lightgbm: 1, lstmm: 1}"],
            "fusion.fixed_weights must name experts that are fused (lightgbm), named lstmm",
        ),
        (
            ["fusion.side_threshold=0.9"],
            "strategy.entry_threshold must be at least fusion.side_threshold (0.9), below which "
            "predictions are flat, was 0.6",
        ),
        (
            ["validation.test_start=2025-01-01"],
            "validation.test_start must lie within the data, 2024-01-01 00:00:00 to 2024-03-01",
        ),
    ],
)
def test_parts_that_contradict_one_another_are_refused_when_a_profile_is_read(
    tmp_path: Path, overrides: list[str], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(write(tmp_path, MINIMAL), overrides)
    assert any(line.startswith(f"  {text}") for line in str(caught.value).splitlines())


def test_contradictions_are_counted_one_by_one(tmp_path: Path) -> None:
    overrides = ["features.peers=true", "label.kind=meta", "fusion.side_threshold=0.7"]
    with pytest.raises(ConfigError, match=r"profile small\.yaml has 3 fault\(s\):\n") as caught:
        load_profile(write(tmp_path, MINIMAL), overrides)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("threshold", ["0.6", "swept"])
def test_thresholds_that_agree_are_accepted(tmp_path: Path, threshold: str) -> None:
    overrides = ["fusion.side_threshold=0.6", f"strategy.entry_threshold={threshold}"]
    load_profile(write(tmp_path, MINIMAL), overrides)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("experts.transformer={reach_bars: 3}", "experts.transformer"),
        ("data.end=2023-01-01", "data: end must be after start (2024-01-01 00:00:00), was 2023"),
        ("label.dead_zone=0.5", "label: dead_zone must be left at 0.25"),
        ("data.start=soon", "data.start: time must be"),
        ("seed=-1", "seed: Input should be greater than or equal to 0, was -1"),
    ],
)
def test_a_fault_says_its_value_once(tmp_path: Path, override: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(write(tmp_path, MINIMAL), [override])
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith(f"  {text}")]
    assert line.count(" was ") == 1
    assert "{" not in line


def test_a_profile_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"profile .*bad\.yaml cannot be read"):
        load_profile(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("strategy.position_frac=2.0", "leverage must be at least 4"),
        ("strategy.stop_loss_frac=0.0001", "stop_loss_frac must be more than the slippage"),
    ],
)
def test_what_a_replay_would_refuse_is_told_when_the_profile_is_read(
    tmp_path: Path, override: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        load_profile(write(tmp_path, MINIMAL), [override])
