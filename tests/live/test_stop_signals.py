"""An engine that stops is asked to, or it has failed: the two look alike to the node."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from live.engine import DONE, FAILED, Engine
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


def in_terminal(*command: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program as the session of a terminal of its own; return when it runs."""
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
    while b"runs" not in said:
        said += os.read(terminal, 1_000)
    return process, terminal


def test_who_closes_the_terminal_has_a_process_end_in_order_and_once(tmp_path: Path) -> None:
    found = tmp_path / "count"
    process, terminal = in_terminal(sys.executable, "-c", PROGRAM, str(found))
    # As a shell does beside its terminal.
    process.send_signal(signal.SIGHUP)
    os.close(terminal)
    assert process.wait(60) == 0
    assert found.read_text() == "1"


def test_a_process_that_was_told_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    found = tmp_path / "count"
    shell = f'trap "" HUP; exec "{sys.executable}" -c "$0" "$1"'
    process, terminal = in_terminal("sh", "-c", shell, PROGRAM, str(found))
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    process.wait(60)


def test_a_supervisor_ends_with_its_terminal_and_takes_its_engines_along(tmp_path: Path) -> None:
    program = """
import signal, sys
from pathlib import Path
from live import supervise_command
from live.engine_plan import plan_of
state = Path(sys.argv[1])
ours = lambda *_: lambda name, plan: (sys.executable, *sys.argv[2:], str(state), name)
supervise_command.fleet_of = lambda request: plan_of(["A"])
supervise_command.run_command = ours
supervise_command.observers_of = lambda *_: ()
supervise_command.supervisor_config = lambda *_: None
print("runs", flush=True)
supervise_command.supervise(supervise_command.SuperviseRequest(state=state))
"""
    process, terminal = in_terminal(sys.executable, "-c", program, str(tmp_path), str(FAKE))
    deadline = time.monotonic() + 60.0
    while not (tmp_path / "A.pids").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.close(terminal)
    assert process.wait(60) == 0
    (engine,) = (tmp_path / "A.pids").read_text().split()
    assert ProcessId.of(int(engine)) is None


def test_an_engine_leaves_its_account_to_others_also_where_nobody_can_hear_its_last_words() -> None:
    program = """
from types import SimpleNamespace
from live.engine_exchange import ExchangeEngine
engine = ExchangeEngine.__new__(ExchangeEngine)
engine._request = SimpleNamespace(mode="live")
engine.engine = SimpleNamespace(ended=lambda: SimpleNamespace(code=7))
engine.close = lambda: None
engine._teller = SimpleNamespace(close=lambda: None)
def gone(outcome):
    raise OSError(5, "Input/output error")
engine._last_words = gone
engine._leave()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 7
