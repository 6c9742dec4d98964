"""A start is seen to be alive while it waits, and an outside that is away is not its failure."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from adapters.errors import (
    AdapterError,
    NotFoundError,
    RefusedError,
    RetryableError,
    TooManyRequestsError,
)
from catalog.errors import AwayError, ConfigError, RunFailedError
from live import first_questions as first
from live import node
from live.engine import Engine
from live.engine_exchange import run_exchange
from live.engine_process import ENGINE_OF_VARIABLE
from live.engine_request import EngineRequest
from live.engine_status import EngineCounters, EngineStatus, PositionStatus
from live.processes import ProcessId
from live.profile import load_profile
from live.registry import Registry
from live.status_thread import StatusThread

BTC = "BTCUSDT-PERP.BINANCE"
HELD = {BTC: PositionStatus(0.5, 100.0, 101.0, 95.0)}


class Told:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, kind: str, text: str, **fields: object) -> None:
        self.texts.append(f"{kind}: {text}")

    def close(self) -> None:
        pass


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRequest:
    monkeypatch.setattr(first, "StatusThread", lambda path: StatusThread(path, 0.02))
    monkeypatch.setenv(ENGINE_OF_VARIABLE, "state:BTCUSDT")
    with closing(Registry(tmp_path / "registry.db")) as registry:
        registry.publish(
            EngineStatus(
                engine="BTCUSDT",
                state="trading",
                equity=900.0,
                positions=HELD,
                counters=EngineCounters(naked_alarms=1),
                blocked="the clock is wrong",
            )
        )
    return EngineRequest(
        profile=load_profile("perps-swing"),
        bundle=Path("bundle"),
        state=tmp_path,
        traded=(BTC,),
        name="BTCUSDT",
    )


def published(request: EngineRequest) -> EngineStatus:
    with closing(Registry(request.state / "registry.db")) as registry:
        found = registry.status("BTCUSDT")
    assert found is not None
    return found


def until_beyond(request: EngineRequest, heartbeat_ns: int) -> EngineStatus:
    deadline = time.monotonic() + 10.0
    while (found := published(request)).heartbeat_ns <= heartbeat_ns:
        assert time.monotonic() < deadline, "no sign of life came"
        time.sleep(0.01)
    return found


def test_an_engine_that_waits_says_that_it_lives_and_why_it_waits(request_: EngineRequest) -> None:
    told, seen = Told(), []
    with first.first_questions(request_, told) as questions:
        before = until_beyond(request_, 0)
        assert (before.state, before.equity, before.positions) == ("starting", 900.0, HELD)
        # Another process has counted nothing yet: people are told of what is new.
        assert (before.counters, before.blocked) == (EngineCounters(), "")
        own = ProcessId.own()
        assert (before.pid, before.process_start_ns) == (own.pid, own.start_ns)

        def ask() -> str:
            # Seen by others while the question is under way.
            last = seen[-1].heartbeat_ns if seen else before.heartbeat_ns
            seen.append(until_beyond(request_, last))
            if len(seen) < 3:
                raise RetryableError("the exchange answered 503")
            return "answered"

        assert questions.ask(ask) == "answered"
    assert len(told.texts) == 2
    assert "503" in seen[1].last_error
    assert "waiting: the exchange is asked again" in told.texts[0]
    # Closed: what comes now is the engine's to say.
    last = published(request_)
    time.sleep(0.1)
    assert published(request_) == last


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RetryableError("503"), AwayError, 7),
        (AdapterError("no answer in 4 attempts"), AwayError, 7),
        (TooManyRequestsError("418"), AwayError, 7),
        (RefusedError("the key is wrong"), RefusedError, 3),
        (NotFoundError("no such thing"), NotFoundError, 3),
        (ConfigError("the account has no balance"), ConfigError, 2),
    ],
)
def test_only_an_outside_that_is_away_ends_with_the_code_that_says_so(
    request_: EngineRequest, error: Any, kind: Any, code: int
) -> None:
    with pytest.raises(kind, match=str(error)) as caught, first.first_questions(request_, Told()):
        # Also where nobody was patient, as in a look-up after the first answers.
        raise error
    assert caught.value.exit_code == code


@pytest.mark.parametrize("mode", ["paper", "testnet"])
def test_an_engine_whose_exchange_is_away_ends_with_that_code(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    # Alone it waits for nobody: a person sees why.
    monkeypatch.delenv(ENGINE_OF_VARIABLE)
    for name in ("BINANCE_TESTNET_API_KEY", "BINANCE_TESTNET_API_SECRET"):
        monkeypatch.setenv(name, "test")
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    request = replace(request_, mode=mode, exchange=url)
    prepared: Any = SimpleNamespace(request=request)
    guard: Any = None
    with pytest.raises(AwayError, match=r"127\.0\.0\.1.* did not"):
        run_exchange(prepared, guard, Told(), lambda outcome: None)
    found = published(request)
    assert (found.state, found.positions) == ("starting", HELD)


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ("readiness timeout while waiting for engine connections", AwayError, 7),
        ("startup reconciliation failed: 1 position", RunFailedError, 5),
    ],
)
def test_sockets_that_are_away_when_a_node_connects_are_the_outside_too(
    monkeypatch: pytest.MonkeyPatch, said: str, kind: Any, code: int
) -> None:
    def run() -> None:
        raise RuntimeError(said)

    handle = SimpleNamespace(stop=lambda: None)
    made = SimpleNamespace(run=run, handle=lambda: handle, dispose=lambda: None)
    builder: Any = SimpleNamespace(build=lambda: made)
    builder.add_data_client = builder.add_exec_client = lambda *_: builder
    monkeypatch.setattr(
        node, "LiveNodeBuilder", SimpleNamespace(from_config=lambda name, config: builder)
    )
    config: Any = None
    clients = node.NodeClients("BINANCE", (None, None), (None, None))
    with pytest.raises(kind, match=said) as caught:
        node.run_clients(clients, config, lambda stop: None, [], [])
    assert caught.value.exit_code == code
    quiet: Any = Mock(_reason="", _gate=None)
    assert Engine.ended(quiet, caught.value).code == code


def test_what_cannot_be_read_is_not_written_over(
    request_: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def locked(*_: object, **__: object) -> None:
            raise OSError("locked")

        patched.setattr(first, "Registry", locked)
        with first.first_questions(request_, Told()) as questions:
            assert questions.ask(lambda: "answered") == "answered"
            time.sleep(0.1)
    assert published(request_).state == "trading"
