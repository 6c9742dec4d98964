"""The family of variants: stated, valid, each once, the profile's own first."""

from __future__ import annotations

import pytest

from live.profile import load_profile
from live.variants import ENTRY_STEPS, EXIT_STEPS, OWN, STOP_FACTORS, family, family_in_words
from strategies.policy_config import FusionPolicy


@pytest.mark.parametrize("name", ["perps-15m", "perps-swing", "synthetic"])
def test_a_family_is_the_whole_grid_around_the_profile(name: str) -> None:
    own = load_profile(name).strategy
    found = family(own)
    assert next(iter(found)) == OWN
    assert found[OWN] == own
    assert len(found) == len(ENTRY_STEPS) * len(EXIT_STEPS) * len(STOP_FACTORS)
    policies = list(found.values())
    assert all(one not in policies[:at] for at, one in enumerate(policies))
    kept = {"entry_threshold", "exit_threshold", "stop_loss_frac", "stops"}
    for one in policies:
        same = own.model_dump()
        changed = {key for key, value in one.model_dump().items() if value != same[key]}
        assert changed <= kept


def test_stops_that_follow_volatility_become_wider_whole() -> None:
    own = load_profile("perps-swing").strategy
    wide = family(own)["entry swept, exit 0.5, stop x 2"]
    assert own.stops is not None
    assert wide.stops is not None
    assert wide.stops.stop_vol_multiple == 2.0 * own.stops.stop_vol_multiple
    assert wide.stops.max_frac == 2.0 * own.stops.max_frac
    assert wide.stops.min_frac == own.stops.min_frac


def test_what_makes_no_strategy_is_left_out() -> None:
    policy = FusionPolicy(entry_threshold=0.51, exit_threshold=0.5, position_frac=0.2)
    names = set(family(policy, least_entry=0.505))
    # 0.49 and 0.5 are no side; without a stop there is none to widen.
    assert names == {
        OWN,
        "entry 0.51, exit 0.45",
        *(f"entry {entry}, exit {leave}" for entry in (0.52, 0.53) for leave in ("0.5", "0.45")),
    }
    assert "stop" not in family_in_words(policy)
    close = FusionPolicy(
        entry_threshold=0.55, exit_threshold=0.53, hysteresis=0.02, position_frac=0.2
    )
    assert "entry 0.54, exit 0.53" not in family(close)  # it would be left as it is entered
    assert "entry 0.54, exit 0.48" in family(close)
