import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from catalog.errors import ConfigError
from strategies.risk_policy import (
    FoundGroups,
    PolicyWatch,
    RiskPolicy,
    load_risk_policy,
    reload_risk_policy,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "live" / "risk_policy.yaml"


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "risk_policy.yaml"
    found.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    return found


def change(path, **changes):
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_the_example_states_every_limit_and_says_what_the_defaults_say():
    policy = load_risk_policy(EXAMPLE)
    usual = RiskPolicy(correlation_groups=policy.correlation_groups)
    assert policy == usual
    assert policy.max_daily_loss == 0.03
    assert policy.max_symbol_share == 0.2
    assert (policy.max_positions, policy.max_correlated) == (15, 5)
    assert policy.rebalance == "0 2 * * 1" or policy.rebalance == "0 2 * * MON"


@pytest.mark.parametrize("key", RiskPolicy.model_fields)
def test_a_limit_that_is_left_out_is_named(path, key):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    del content[key]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{key}: must be given, was missing; write it down"):
        load_risk_policy(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_daily_los": 0.03}, "max_daily_los: unknown key; did you mean 'max_daily_loss'"),
        ({"found_groups": {"limt": 0.8}}, "found_groups.limt: unknown key; did you mean 'limit'"),
        ({"max_daily_loss": 3}, "max_daily_loss: Input should be less than 1, was 3"),
        ({"max_daily_loss": 0}, "max_daily_loss: Input should be greater than 0"),
        ({"max_daily_loss": float("nan")}, "max_daily_loss: .*finite"),
        ({"max_daily_loss": "0.03"}, "max_daily_loss: .*valid number, was '0.03'"),
        ({"max_positions": True}, "max_positions: .*valid integer, was True"),
        ({"max_positions": 1.5}, "max_positions: .*valid integer, was 1.5"),
        ({"max_positions": 0}, "max_positions: .*greater than or equal to 1"),
        ({"max_drawdown": 0.02}, "max_drawdown must be at least max_daily_loss"),
        ({"min_position_usd": 2e6}, "min_position_usd must be at most max_position_usd"),
        ({"max_orders_per_minute": 10}, "max_orders_per_minute must be at least"),
        ({"rebalance": "0 25 * * MON"}, "rebalance: schedule must be a cron expression"),
        ({"correlation_groups": {"a": ["BTCUSDT-PERP.BINANCE"]}}, "group 'a' must be at least two"),
        ({"correlation_groups": {"a": ["BTC", "ETH"]}}, "correlation_groups.a.0: .*match pattern"),
        ({"found_groups": {"min_bars": 50, "window_bars": 9}}, "min_bars must be at most window"),
        ({"correlated_count": "some"}, "correlated_count: .*'all' or 'same_side'"),
        ({"kill_switch_file": ""}, "kill_switch_file: .*at least 1 character"),
    ],
)
def test_a_wrong_key_is_named_with_its_rule_and_value(path, changes, message):
    change(path, **changes)
    with pytest.raises(ConfigError, match=message):
        load_risk_policy(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping of keys, was None"),
        ("- 1", "must be a mapping"),
        ("max_positions: 3\nmax_positions: 4", "given twice: max_positions"),
        ("a: !!python/object/apply:os.getcwd []", "must be YAML"),
        ("max_positions: [", "must be YAML"),
        ("? [1, 2]\n: 3", "must be YAML"),
        ("\x00", "must be YAML"),
    ],
)
def test_what_is_no_policy_is_refused(path, text, message):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_risk_policy(path)


def test_a_file_cut_short_anywhere_but_in_its_last_number_is_refused(path):
    text = path.read_text(encoding="utf-8")
    last = text.rindex("max_clock_lag_secs")
    for length in range(0, last, 41):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(ConfigError):
            load_risk_policy(path)


def test_a_policy_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        RiskPolicy().max_positions = 99


def test_reloading_takes_a_good_file_and_keeps_the_old_policy_over_a_wrong_one(path):
    current = load_risk_policy(path)
    assert reload_risk_policy(path, current) == (current, False, "")
    change(path, max_positions=7)
    found = reload_risk_policy(path, current)
    assert (found.policy.max_positions, found.changed, found.refused) == (7, True, "")
    # One fault, and nothing of the file counts.
    change(path, max_positions=9, max_daily_loss=-1)
    refused = reload_risk_policy(path, found.policy)
    assert refused.policy is found.policy
    assert not refused.changed
    assert "max_daily_loss" in refused.refused
    path.unlink()
    assert "cannot be read" in reload_risk_policy(path, current).refused
    path.mkdir()
    assert "cannot be read" in reload_risk_policy(path, current).refused


def test_a_watch_reads_what_has_changed_and_tells_a_refusal_once(path):
    watch = PolicyWatch(path, load_risk_policy(path))
    assert watch.poll() is None
    path.write_text("nonsense", encoding="utf-8")
    assert "must be a mapping" in watch.poll().refused
    assert watch.poll() is None
    assert watch.policy == load_risk_policy(EXAMPLE)
    path.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    change(path, max_positions=3)
    assert watch.poll().changed
    assert watch.policy.max_positions == 3
    path.unlink()
    assert "cannot be read" in watch.poll().refused
    assert watch.policy.max_positions == 3


def test_a_watch_sees_a_change_of_the_same_length_and_time(path):
    watch = PolicyWatch(path, load_risk_policy(path))
    watch.poll()
    status = path.stat()
    fresh = path.with_suffix(".new")
    fresh.write_text(
        path.read_text(encoding="utf-8").replace("max_positions: 15", "max_positions: 14")
    )
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.replace(path)
    assert watch.poll().policy.max_positions == 14


def test_found_groups_are_checked_in_python_too():
    with pytest.raises(ValidationError, match="min_bars must be at most window_bars"):
        FoundGroups(window_bars=10, min_bars=11)


@pytest.mark.parametrize(
    ("sizing", "told"),
    [
        ({"method": "nope"}, "method"),
        ({"fraction": 2.0}, "fraction"),
        ({"bogus": 1}, "unknown key"),
        ({"method": "volatility_target"}, "bars_per_day"),
    ],
)
def test_a_sizing_that_is_none_is_refused_whoever_sizes(path, sizing, told):
    change(path, sizing=sizing)
    with pytest.raises(ConfigError, match=rf"1 fault\(s\)[^$]*sizing: .*{told}"):
        load_risk_policy(path)
    current = load_risk_policy(EXAMPLE)
    found = reload_risk_policy(path, current)
    assert found.policy == current
    assert told in found.refused
