"""An engine that stops is asked to, or it has failed: the two look alike to the node."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from live.engine import DONE, FAILED, Engine
from live.engine_exchange import ExchangeEngine
from live.processes import ProcessId
from live.stop_signals import StopSignals
from tests.live.test_supervisor import FAKE


def ended(*, asked: bool) -> Any:
    told: list[tuple[str, str]] = []
    quiet = SimpleNamespace(offer=lambda status: None, close=lambda failure="": None, failed=0)
    guard = SimpleNamespace(
        watch=SimpleNamespace(save=lambda: None), store=SimpleNamespace(give_up=lambda: None)
    )
    engine = Engine.__new__(Engine)
    engine.parts = SimpleNamespace(guard=guard)  # type: ignore[assignment]
    engine.view = SimpleNamespace(state="stopping", last_error="")  # type: ignore[assignment]
    engine.view.status = lambda: engine.view.state  # type: ignore[assignment, method-assign, return-value]
    engine.teller = SimpleNamespace(event=lambda kind, text: told.append((kind, text)))
    engine._published = engine._alerts = quiet  # type: ignore[assignment]
    engine._tap = SimpleNamespace(look=lambda: None)  # type: ignore[assignment]
    engine._gate, engine._reason = None, ""
    engine.asked = lambda: asked
    return engine.ended(), told


def test_a_node_that_ends_unasked_has_failed_so_that_a_supervisor_starts_it_again() -> None:
    outcome, told = ended(asked=False)
    assert (outcome.code, outcome.status) == (FAILED, "failed")
    assert told == [("end", outcome.reason)]
    assert "nobody had asked it to" in outcome.reason
    outcome, _ = ended(asked=True)
    assert (outcome.code, outcome.reason) == (DONE, "stopped in order")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_heard_also_where_the_node_has_put_its_own_handler(number: int) -> None:
    heard: list[int] = []
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.seen
        signal.signal(number, lambda number, frame: heard.append(number))
        os.kill(os.getpid(), number)
        assert signals.seen
    assert signals.seen
    assert heard == [number]
    assert signal.getsignal(number) == before
    with StopSignals() as again:
        assert not again.seen


PROGRAM = """
import sys, time
from pathlib import Path
from live.stop_signals import StopSignals, end_at_hangup

end_at_hangup()
with StopSignals() as signals:
    print("runs", flush=True)
    while not signals.seen:
        time.sleep(0.02)
    time.sleep(0.5)
    print("nobody reads this", flush=True)
    Path(sys.argv[1]).write_text(str(signals.count))
"""


@contextmanager
def in_terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a program as the session of a terminal of its own, and wait until it says so."""
    terminal, side = os.openpty()
    process = subprocess.Popen(
        command,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(side)
    said = b""
    try:
        # The end of the line too: else it may still be written when the terminal goes.
        while b"runs\r\n" not in said:
            said += os.read(terminal, 1_000)
        yield process, terminal
    finally:
        process.kill()
        process.wait()


def test_who_closes_the_terminal_has_a_process_end_in_order_and_once(tmp_path: Path) -> None:
    found = tmp_path / "count"
    with in_terminal(sys.executable, "-c", PROGRAM, str(found)) as (process, terminal):
        # As a shell does beside its terminal.
        process.send_signal(signal.SIGHUP)
        os.close(terminal)
        assert process.wait(60) == 0
    assert found.read_text() == "1"


def test_a_process_that_was_told_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    found = tmp_path / "count"
    shell = f'trap "" HUP; exec "{sys.executable}" -c "$0" "$1"'
    with in_terminal("sh", "-c", shell, PROGRAM, str(found)) as (process, terminal):
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)


def test_a_supervisor_ends_with_its_terminal_and_takes_its_engines_along(tmp_path: Path) -> None:
    program = """
import signal, sys
from pathlib import Path
from live import supervise_command
from live.engine_plan import plan_of
state = Path(sys.argv[1])
ours = lambda *_: lambda name, plan: (sys.executable, *sys.argv[2:], str(state), name)
supervise_command.fleet_of = lambda request: plan_of(["A"])
supervise_command.require_bundles = lambda plan: None
supervise_command.run_command = ours
supervise_command.observers_of = lambda *_: ()
supervise_command.supervisor_config = lambda *_: None
print("runs", flush=True)
supervise_command.supervise(supervise_command.SuperviseRequest(state=state))
"""
    pids = tmp_path / "A.pids"
    command = (sys.executable, "-c", program, str(tmp_path), str(FAKE))
    with in_terminal(*command) as (process, terminal):
        deadline = time.monotonic() + 60.0
        while not (pids.exists() and pids.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.close(terminal)
        assert process.wait(60) == 0
    (engine,) = pids.read_text().split()
    assert ProcessId.of(int(engine)) is None


def test_an_engine_leaves_its_account_to_others_also_where_nobody_can_hear_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LeftError(Exception):
        pass

    def leave(code: int) -> None:
        raise LeftError(code)

    def unheard(outcome: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "_exit", leave)
    engine: Any = ExchangeEngine.__new__(ExchangeEngine)
    engine._request = SimpleNamespace(mode="live")
    engine.engine = SimpleNamespace(ended=lambda *_: SimpleNamespace(code=7))
    engine._teller = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(engine, "close", lambda: None)
    engine._last_words = unheard
    with pytest.raises(LeftError, match="7"):
        engine._leave()
