import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY
from strategies.guard import Guard
from strategies.guard_state import HOLDS, GuardEvent, GuardState, Hold
from strategies.guard_store import GuardStore, _checksum, _decode, _encode, kill_switch_seen
from strategies.risk_policy import RiskPolicy

START = 19_723 * NS_PER_DAY
times = st.integers(0, 2**62)
money = st.none() | st.floats(allow_nan=False, allow_infinity=False)
reasons = st.sampled_from(sorted(HOLDS))
events = st.builds(
    GuardEvent,
    times,
    st.sampled_from(["hold", "release", "flat", "clock", "policy", "refused"]),
    st.sampled_from(["normal", "reducing", "halted"]),
    st.text(),
    st.text(),
)
states = st.builds(
    GuardState,
    ts=times,
    day=st.none() | st.integers(0, 10**6),
    start_day=st.none() | st.integers(0, 10**6),
    equity=money,
    day_start_equity=money,
    peak_equity=money,
    daily_loss_day=st.none() | st.integers(0, 10**6),
    holds=st.lists(st.builds(Hold, reasons, times, st.text())).map(
        lambda holds: {hold.reason: hold for hold in holds}
    ),
    exposed=st.booleans(),
    kill_switch=st.booleans(),
    consecutive_losses=st.integers(0, 100),
    rejections=st.lists(times, max_size=5),
    orders=st.lists(times, max_size=5),
    history=st.lists(events, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(states)
def test_a_state_comes_back_as_it_was(state):
    assert _decode(_encode(state)) == state


def test_a_saved_state_is_one_file_in_a_folder_of_its_making(tmp_path):
    path = tmp_path / "deep" / "guard.json"
    state = halted(path).state
    assert GuardStore(path).load() == state
    assert [one.name for one in path.parent.iterdir()] == ["guard.json"]


def test_the_first_start_has_nothing_to_remember(tmp_path):
    assert GuardStore(tmp_path / "guard.json").load() == GuardState()


def halted(path):
    guard = Guard(RiskPolicy())
    guard.on_positions(START, 0)
    guard.on_equity(START, 100_000.0)
    guard.on_equity(START, 96_000.0)
    GuardStore(path).save(guard.state)
    return guard


def test_a_halted_system_stays_halted_over_a_restart(tmp_path):
    path = tmp_path / "guard.json"
    halted(path)
    again = Guard(RiskPolicy(), GuardStore(path).load())
    # Until the account has said that it is flat.
    assert (again.level, again.reasons) == ("reducing", "daily_loss")
    assert len(again.actions(START + 1)) == 3
    again.on_positions(START + 1, 0)
    assert again.level == "halted"
    again.on_equity(START + 2, 99_000.0)
    assert again.level == "halted"
    assert again.state.day_start_equity == 100_000.0
    again.on_data(START + NS_PER_DAY)
    assert again.level == "normal"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("daily_loss", "daily_lost", 1),
        lambda text: text.replace('"holds": {', '"holds": {}, "more": {', 1),
        lambda text: text.replace("96000.0", "99000.0", 1),
        lambda text: text.replace('"format": 1', '"format": 2', 1),
        lambda text: "[]",
        lambda text: "null",
        lambda text: '{"format": 1, "checksum": "", "state": {}}',
        lambda text: "\udcff",
        lambda text: "[" * 100_000,
    ],
)
def test_a_file_that_cannot_be_believed_halts_until_a_person_releases(tmp_path, spoil):
    path = tmp_path / "guard.json"
    halted(path)
    text = spoil(path.read_text(encoding="utf-8"))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    damaged = path.read_bytes()
    for _ in range(2):
        guard = Guard(RiskPolicy(), GuardStore(path).load())
        assert guard.reasons == "state_damaged"
        assert f"{path} is damaged" in guard.state.holds["state_damaged"].detail
        assert path.read_bytes() == damaged
    assert (tmp_path / "guard.json.damaged").read_bytes() == damaged
    guard.on_positions(START, 0)
    guard.on_equity(START + 5 * NS_PER_DAY, 96_000.0)
    assert guard.level == "halted"
    GuardStore(path).save(guard.state)
    assert GuardStore(path).load().holds.keys() == {"state_damaged"}


def forged(path, **changes):
    record = json.loads(path.read_text(encoding="utf-8"))
    record["state"] |= changes
    record["checksum"] = _checksum(record["state"])
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holds": {"mood": {"reason": "mood", "ts": 0, "detail": ""}}}, "by reason and known"),
        ({"holds": {"manual": {"reason": "drawdown", "ts": 0, "detail": ""}}}, "by reason and"),
        ({"equity": "96000"}, "state does not fit"),
        ({"consecutive_losses": 1.5}, "state does not fit"),
        ({"unknown": 1}, "state does not fit"),
    ],
)
def test_a_state_with_the_right_checksum_must_still_fit(tmp_path, changes, message):
    path = tmp_path / "guard.json"
    halted(path)
    forged(path, **changes)
    state = GuardStore(path).load()
    assert message in state.holds["state_damaged"].detail


def test_a_file_that_cannot_be_read_halts(tmp_path):
    path = tmp_path / "guard.json"
    path.mkdir()
    assert "cannot be read" in GuardStore(path).load().holds["state_damaged"].detail


def test_what_has_not_changed_is_not_written_again(tmp_path):
    path = tmp_path / "guard.json"
    store, state = GuardStore(path), GuardState(ts=1)
    store.save(state)
    path.unlink()
    store.save(state)
    assert not path.exists()
    state.ts = 2
    store.save(state)
    assert GuardStore(path).load().ts == 2


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_state(tmp_path, monkeypatch, stage):
    path = tmp_path / "guard.json"
    store = GuardStore(path)
    store.save(GuardState(ts=1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*(("os.fsync",) if stage == "fsync" else ("pathlib.Path.replace",)), full)
    with pytest.raises(DataError, match=r"must be stored, .*No space left.*start again"):
        store.save(GuardState(ts=2))
    monkeypatch.undo()
    assert GuardStore(path).load().ts == 1
    assert [one.name for one in tmp_path.iterdir()] == ["guard.json"]
    store.save(GuardState(ts=2))
    assert GuardStore(path).load().ts == 2


def test_the_kill_switch_is_seen_and_what_cannot_be_looked_at_counts_as_set(tmp_path):
    switch = tmp_path / "KILL_SWITCH"
    assert kill_switch_seen(switch) == ""
    assert kill_switch_seen(tmp_path / "nowhere" / "KILL_SWITCH") == ""
    switch.touch()
    assert "is there" in kill_switch_seen(switch)
    assert kill_switch_seen(switch / "under") == ""
    switch.unlink()
    switch.symlink_to(tmp_path / "gone")
    assert "is there" in kill_switch_seen(switch)
    assert "cannot be looked at" in kill_switch_seen(tmp_path / ("x" * 5000))
    assert "cannot be looked at" in kill_switch_seen("a\0b")
