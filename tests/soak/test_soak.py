"""What a soak draws. Soaks themselves are run by `make soak` and at the end of `make test-all`."""

from __future__ import annotations

from tests.soak.chaos import ChaosPlan


def test_the_same_seed_is_the_same_soak() -> None:
    plan = ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=4)
    found = plan.mishaps()
    assert found == plan.mishaps()
    assert found != ChaosPlan(seconds=600.0, engines=("AAA", "BBB"), seed=5).mishaps()
    assert len({one.name for one in found}) == 15
    assert [one.at for one in found] == sorted(one.at for one in found)
