"""A short soak: few engines, because two cores run tests as well; `make soak` is the whole one.

What it demands is what `make soak` does, but for uptime: with four engines a single kill costs more
than one per cent of two minutes.
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
        minutes=2.0, engines=4, seed=11, fault_every_s=9.0, kill_every_s=45.0, uptime=0.9
    )
    report = soak(config, tmp_path)
    print(table(report))
    assert report.failures == []
    assert report.figures["orders"] > 20
    assert any(one["name"] == KILL for one in report.mishaps)


def test_the_same_seed_is_the_same_soak() -> None:
    plan = ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=4)
    found = plan.mishaps()
    assert found == plan.mishaps()
    assert found != ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=5).mishaps()
    assert len({one.name for one in found}) == 15
    assert [one.at for one in found] == sorted(one.at for one in found)
