"""The kill switch: one file, three ways to set it, effective within a second, and persistent."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from catalog.errors import DataError
from live.kill_switch import KillSwitch, kill_file, lift_kill, read_kill, set_kill
from tests.live.test_guard_live import write_policy
from tests.live.wall_clock import World, play

EFFECTIVE_SECS = 1.0
"""What the project promises: from the switch to being flat."""


def test_a_switch_says_who_when_and_why_until_it_is_lifted(tmp_path: Path) -> None:
    assert read_kill(tmp_path) is None
    before = time.time_ns()
    switch = set_kill(tmp_path, "anna", "the news")
    assert (switch.who, switch.why) == ("anna", "the news")
    assert switch.ts_ns is not None
    assert before <= switch.ts_ns <= time.time_ns()
    assert read_kill(tmp_path) == switch
    assert lift_kill(tmp_path) == switch
    assert read_kill(tmp_path) is None
    assert lift_kill(tmp_path) is None
    assert [*tmp_path.iterdir()] == []


def test_a_second_setting_keeps_who_was_first(tmp_path: Path) -> None:
    first = set_kill(tmp_path, "anna", "the news")
    assert set_kill(tmp_path, "ben", "me too") == first
    assert read_kill(tmp_path) == first


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", ""),
        (b"stop please\n", "stop please"),
        (b'{"who": "anna"}', '{"who": "anna"}'),
        (b"[" * 3_000, "[" * 200),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_a_file_made_by_hand_counts_whatever_it_says(
    tmp_path: Path, content: bytes, why: str
) -> None:
    kill_file(tmp_path).write_bytes(content)
    assert read_kill(tmp_path) == KillSwitch("unknown", None, why)


def test_a_link_to_nowhere_and_a_folder_count(tmp_path: Path) -> None:
    kill_file(tmp_path).symlink_to(tmp_path / "nowhere")
    assert read_kill(tmp_path) is not None
    kill_file(tmp_path).unlink()
    kill_file(tmp_path).mkdir()
    found = read_kill(tmp_path)
    assert found is not None
    assert "cannot be read" in found.why
    with pytest.raises(DataError, match=r"could not be .* remove it by hand"):
        lift_kill(tmp_path)


def test_no_folder_is_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"state folder of the engines.*check --state"):
        set_kill(tmp_path / "sate", "anna", "")
    assert read_kill(tmp_path / "sate") is None


def test_a_disk_that_is_full_leaves_an_empty_file_that_stands_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        assert kill_file(tmp_path).exists(), "the file must be there before its content"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("live.kill_switch.write_synced", full)
    set_kill(tmp_path, "anna", "the news")
    assert read_kill(tmp_path) == KillSwitch()


def _by_command(folder: Path) -> None:
    command = [sys.executable, "-m", "live.cli", "live", "kill", "--state", str(folder)]
    subprocess.run([*command, "--why", "drill", "--wait", "0"], check=True, capture_output=True)


@pytest.mark.parametrize("by", ["file", "command"])
def test_a_node_is_flat_within_a_second_and_stays_so(tmp_path: Path, by: str) -> None:
    write_policy(tmp_path, kill_switch_file=str(kill_file(tmp_path)))
    seconds: list[float] = []

    async def script(world: World) -> None:
        await world.open_position()
        setter = _by_command if by == "command" else lambda folder: kill_file(folder).touch()
        thread = threading.Thread(target=setter, args=(tmp_path,))
        thread.start()
        await world.until(lambda: kill_file(tmp_path).exists(), "set", 30.0)
        await world.until(world.flat, "flat", 5.0)
        seconds.append(world.seconds["flat"])
        thread.join()

    # Its other looks are far apart: only the switch's own can be in time.
    world = play(tmp_path, script, look_interval_ms=30_000)
    assert seconds[0] < EFFECTIVE_SECS
    assert world.guard.reasons == "kill_switch"
    kept = json.loads((tmp_path / "guard.json").read_text(encoding="utf-8"))
    assert kept["state"]["kill_switch"] is True


def test_the_command_lifts_and_says_what_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "live.cli", "live", "kill", "--state", str(tmp_path)]
    done = subprocess.run([*command, "--who", "anna", "--json"], check=True, capture_output=True)
    told = json.loads(done.stdout)
    assert told["enabled"] is True
    assert told["who"] == "anna"
    assert "no engine is known here" in told["remark"]
    done = subprocess.run([*command, "--off"], check=True, capture_output=True, text=True)
    assert "the kill switch is lifted; it was set by anna" in done.stdout
    assert "levibot guard release" in done.stdout
    assert read_kill(tmp_path) is None
