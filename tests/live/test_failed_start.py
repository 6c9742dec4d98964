"""What a start that fails leaves in the registry, and what it must not take away there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from catalog.errors import AwayError, ConfigError
from live import engine
from live.engine import publish_failure
from live.engine_parts import GUARD_FILE
from live.engine_request import EngineRequest
from live.engine_status import EngineStatus, PositionStatus
from live.profile import load_profile
from live.registry import Registry
from strategies.guard_store import GuardStore

BTC = "BTCUSDT-PERP.BINANCE"
ERROR = ConfigError("keys must be in the environment")


@pytest.fixture
def request_(tmp_path: Path) -> EngineRequest:
    return EngineRequest(
        profile=load_profile("perps-swing"),
        bundle=Path("bundle"),
        state=tmp_path,
        traded=(BTC,),
        name="BTCUSDT",
    )


def published(state: Path) -> EngineStatus | None:
    with closing(Registry(state / "registry.db")) as registry:
        return registry.status("BTCUSDT")


def test_what_an_engine_held_when_it_died_is_still_counted(request_: EngineRequest) -> None:
    publish_failure(request_, ERROR)
    first = published(request_.state)
    assert first is not None
    assert (first.state, first.positions) == ("failed", {})
    assert first.last_error == f"ConfigError: {ERROR}"
    held = {BTC: PositionStatus(0.5, 100.0, 101.0, 95.0)}
    ran = EngineStatus(engine="BTCUSDT", state="trading", equity=900.0, positions=held)
    with closing(Registry(request_.state / "registry.db")) as registry:
        registry.publish(ran)
    publish_failure(request_, ERROR)
    after = published(request_.state)
    assert after is not None
    assert (after.state, after.equity, after.positions) == ("failed", 900.0, held)


def test_an_engine_that_fails_after_it_has_claimed_its_folder_is_heard(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GuardStore(request_.folder / GUARD_FILE)
    store.claim()

    def away(*_: object) -> None:
        raise AwayError("the exchange must answer, did not")

    monkeypatch.setattr(engine, "prepare", lambda request: SimpleNamespace(request=request))
    monkeypatch.setattr(engine, "claim_guard", lambda prepared: SimpleNamespace(store=store))
    monkeypatch.setattr(engine, "_run", away)
    with pytest.raises(AwayError) as caught:
        engine.run_engine(request_, lambda outcome: None)
    publish_failure(request_, caught.value)
    found = published(request_.state)
    assert found is not None
    assert (found.state, found.last_error) == ("failed", f"AwayError: {caught.value}")


def test_a_second_process_says_nothing_in_the_name_of_the_first(request_: EngineRequest) -> None:
    store = GuardStore(request_.folder / GUARD_FILE)
    store.claim()
    publish_failure(request_, ERROR)
    assert published(request_.state) is None
    store.give_up()
    publish_failure(request_, ERROR)
    assert published(request_.state) is not None
