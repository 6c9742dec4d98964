from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from catalog.errors import DataError
from live.kill_switch import set_kill
from live.overview import EngineView, Overview, Reading
from live.top import frame, show_once, watch
from tests.live.fleet import NS, halted, make_fleet, record, trading

NOW = 1_800_000_000 * NS


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width)


def text(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def shown(*views: EngineView, width: int = 160, problem: str = "") -> str:
    where = console(width)
    reading = Reading(Overview(NOW, views, supervised=True), problem)
    where.print(frame(reading, Path("state"), width))
    return text(where)


def line(frame_text: str, start: str) -> list[str]:
    [found] = [one for one in frame_text.splitlines() if one.startswith(start)][:1]
    return found.split()


def test_a_frame_shows_what_engines_do_hold_and_predict() -> None:
    views = (
        EngineView(trading(NOW), record("BTCUSDT"), NOW),
        EngineView(halted(NOW), record("ETHUSDT"), NOW),
    )
    said = shown(*views)
    assert "2 of 2 engines run  supervised  equity 19,823.50 USDT  today -226.50" in said
    assert "kill switch off" in said
    assert line(said, "BTCUSDT  paper") == [
        *("BTCUSDT", "paper", "trading", "normal", "0s", "6m", "1", "10,123.50", "+73.50", "0.7%"),
        *("12", "9", "0", "<inf", "4", "3.4%", "330", "2h05"),
    ]
    assert line(said, "BTCUSDT  BTCUSDT") == [
        *("BTCUSDT", "BTCUSDT", "+0.05", "97,000", "97,400", "95,500", "+20.00"),
        *("0.561", "0.400", "0.021", "6m"),
    ]
    assert line(said, "ETHUSDT  ETHUSDT") == [
        *("ETHUSDT", "ETHUSDT", "flat", "0.441", "0.100", "0.050", "6m", "degraded"),
    ]
    assert "ETHUSDT: risk guard halted: daily_loss" in said


def test_what_is_not_known_is_a_dash_and_what_is_silent_says_so() -> None:
    bare = trading(NOW - 20 * NS, equity=None, positions={}, predictions={})
    assert line(shown(EngineView(bare, None, NOW)), "BTCUSDT")[2:9] == [
        *("silent", "normal", "20s", "7m", "0", "-", "-"),
    ]
    failed = replace(record("BTCUSDT"), stage="given_up")
    assert line(shown(EngineView(bare, failed, NOW)), "BTCUSDT")[2:4] == ["given", "up"]


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_a_frame_fits_the_terminal(width: int) -> None:
    said = shown(EngineView(trading(NOW), record("BTCUSDT"), NOW), width=width)
    assert max(len(one.rstrip()) for one in said.splitlines()) <= width
    assert "…" not in said
    assert line(said, "BTCUSDT  paper")[2] == "trading"


def test_markup_in_what_engines_say_is_text() -> None:
    said = shown(EngineView(trading(NOW, state="failed", last_error="[red]no[/red]"), None, NOW))
    assert "failed: [red]no[/red]" in said


def test_one_frame_of_a_folder(tmp_path: Path) -> None:
    make_fleet(tmp_path).close()
    set_kill(tmp_path, "anna", "drill")
    where = console(160)
    show_once(tmp_path, where)
    assert "KILL SWITCH set by anna at" in text(where)
    assert ": drill" in text(where)
    with pytest.raises(DataError, match="check --state"):
        show_once(tmp_path / "sate", where)


def test_watching_goes_on_without_a_registry_until_it_is_interrupted(tmp_path: Path) -> None:
    where, turns = console(160), 0

    def sleep(secs: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            make_fleet(tmp_path).close()
        if turns == 3:
            raise KeyboardInterrupt

    watch(tmp_path, where, 0.5, sleep)
    assert turns == 3
    # What is no terminal is shown the last frame.
    assert "BTCUSDT" in text(where)


def test_a_frame_of_fifteen_engines_is_quick() -> None:
    views = tuple(
        EngineView(trading(NOW, engine=f"E{one}"), record(f"E{one}"), NOW) for one in range(15)
    )
    shown(*views)
    begun = time.process_time()
    shown(*views)
    assert time.process_time() - begun < 0.5
