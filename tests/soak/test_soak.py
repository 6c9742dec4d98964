"""A short soak: few engines, because other tests run beside it.

Its books must agree to the last order, as after a long one. How soon engines are back is left to
`make soak` and to the soak that ends `make test-all`, which have the machine for themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.__main__ import table
from tests.soak.chaos import KILL, ChaosPlan
from tests.soak.run import SoakConfig, soak


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_soak(tmp_path: Path) -> None:
    config = SoakConfig(
        minutes=0.9,
        engines=3,
        seed=11,
        fault_every_s=7.0,
        kill_every_s=25.0,
        uptime=0.5,
        recovery_s=40.0,
        naked_s=20.0,
    )
    report = soak(config, tmp_path)
    print(table(report))
    assert report.failures == []
    assert report.figures["orders"] > 10
    assert any(one["name"] == KILL for one in report.mishaps)


def test_the_same_seed_is_the_same_soak() -> None:
    plan = ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=4)
    found = plan.mishaps()
    assert found == plan.mishaps()
    assert found != ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=5).mishaps()
    assert len({one.name for one in found}) == 15
    assert [one.at for one in found] == sorted(one.at for one in found)
