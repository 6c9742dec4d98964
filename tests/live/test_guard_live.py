"""The risk guard in a live node on wall-clock time, with the paper exchange: what people change
around a running process, and what it remembers when it starts again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY
from live.guard_command import halt, release, status
from strategies.guard_desk import GuardDesk
from strategies.guard_store import GuardStore
from strategies.stops import StopConfig
from tests.live.wall_clock import BTC, World, play
from tests.strategies.settings import plain_execution

EXAMPLE = Path(__file__).parents[2] / "live" / "risk_policy.yaml"
FLAT_SECS = 5.0
"""What the project promises: from the reason to being flat."""


def write_policy(folder: Path, **changes: Any) -> None:
    content = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    content |= {"found_groups": None, "sizing": {}, "correlation_groups": {}}
    content |= {"max_symbol_share": 1.0, "kill_switch_file": str(folder / "KILL"), **changes}
    (folder / "risk.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_policy(tmp_path)
    return tmp_path


def room(world: World, quantity: float = 0.001) -> tuple[float, str]:
    """What the guard would leave of an order now, and why."""
    assert world.strategy.guard is not None
    return world.strategy.guard.allowed(BTC, world.guard.state.ts, quantity, world.price)


async def stays_flat(world: World) -> None:
    world.bar()
    await asyncio.sleep(0.2)
    assert world.flat()
    assert room(world) == (0.0, "halted")


def test_a_kill_switch_file_flattens_at_the_usual_pace_and_outlives_the_process(
    folder: Path,
) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        assert room(world) == (0.001, "")
        world.kill_switch.touch()
        await world.until(world.flat, "flat", FLAT_SECS)
        await stays_flat(world)

    world = play(folder, script, look_interval_ms=1_000)
    assert world.seconds["flat"] < FLAT_SECS
    assert [one.reason for one in world.recorder.fills] == ["enter_long", "risk_guard"]
    assert world.told("flat", "kill_switch")
    world.kill_switch.unlink()

    async def again(world: World) -> None:
        await world.until(world.risk_guard.is_running, "running")
        await stays_flat(world)

    later = play(folder, again)
    assert later.guard.reasons == "kill_switch"
    assert not later.recorder.orders
    assert later.guard.state.history[-1].kind == "flat"


def test_a_flattening_leaves_neither_stop_nor_target_alive(folder: Path) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        world.kill_switch.touch()
        await world.until(world.flat, "flat", FLAT_SECS)
        await asyncio.sleep(0.2)
        assert world.flat()

    stops = StopConfig(stop_vol_multiple=2.0, target_vol_multiple=3.0, trailing=True)
    world = play(folder, script, stops=stops)
    statuses = {row.client_order_id[3]: row.status for row in world.recorder.orders.values()}
    assert statuses == {"E": "FILLED", "S": "CANCELED", "T": "CANCELED", "F": "FILLED"}


def test_a_limit_that_waits_is_taken_back(folder: Path) -> None:
    def waits(world: World) -> bool:
        assert world.exchange is not None
        rows = world.recorder.orders.values()
        return [row.status for row in rows] == ["ACCEPTED"] and not world.flat()

    async def script(world: World) -> None:
        await world.decide()
        await world.until(lambda: waits(world), "waits")
        await asyncio.to_thread(halt, world.state_file, "anna", "the news")
        await world.until(world.flat, "flat", FLAT_SECS)
        await world.until(lambda: world.guard.level == "halted", "halted")

    patient = plain_execution(order_style="limit", limit_offset_bps=100.0, limit_timeout_bars=4)
    world = play(folder, script, execution=patient)
    assert [row.status for row in world.recorder.orders.values()] == ["CANCELED"]
    assert not world.recorder.fills


def test_sixteen_positions_are_flat_in_time(folder: Path) -> None:
    names = tuple(
        f"{coin}USDT-PERP.BINANCE"
        for coin in (
            *("BTC", "ETH", "SOL", "ADA", "XRP", "DOGE", "AVAX", "LINK"),
            *("LTC", "BCH", "DOT", "ETC", "ATOM", "NEAR", "TRX", "UNI"),
        )
    )
    write_policy(folder, max_positions=16, max_correlated=16)

    async def script(world: World) -> None:
        await world.open_position()
        world.kill_switch.touch()
        await world.until(world.flat, "flat", FLAT_SECS)
        await asyncio.sleep(0.2)
        assert world.flat()

    stops = StopConfig(stop_vol_multiple=2.0, target_vol_multiple=3.0)
    world = play(folder, script, names=names, look_interval_ms=1_000, stops=stops)
    closed = [one.instrument_id for one in world.recorder.fills if one.reason == "risk_guard"]
    assert sorted(closed) == sorted(names)
    assert len(world.recorder.orders) == 4 * 16


def test_a_policy_of_nonsense_changes_nothing_and_a_right_one_counts_at_once(folder: Path) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        before = world.guard.policy
        world.policy_file.write_text("nonsense", encoding="utf-8")
        await world.until(lambda: world.told("refused", "policy"), "refused")
        assert world.guard.policy is before
        assert world.guard.level == "normal"
        write_policy(folder, sizing={"method": "martingale"})
        await world.until(lambda: len(world.recorder.guard_events) == 2, "misfit")
        write_policy(folder, sizing={"method": "fixed", "max_position": 6.0, "max_gross": 6.0})
        await world.until(lambda: len(world.recorder.guard_events) == 3, "too bold")
        write_policy(folder, max_data_age_secs=0.5)
        await world.until(lambda: len(world.recorder.guard_events) == 4, "shorter than a bar")
        assert world.guard.policy is before
        sizing = {"method": "fixed", "fixed_frac": 0.1, "max_position": 0.05}
        write_policy(folder, sizing=sizing, max_symbol_share=0.4)
        await world.until(lambda: world.told("policy", ""), "adopted")
        assert world.guard.policy.max_symbol_share == 0.4
        # Half of equity is held: the new share leaves no room beside it.
        assert room(world) == (0.0, "max_symbol_share")
        found = world.strategy.policy.position_sizing
        assert found is not None
        assert found.max_position == 0.05
        assert world.strategy.sizer.sizing == found

    world = play(folder, script)
    events = [(one.kind, one.reason) for one in world.recorder.guard_events]
    assert events == [*[("refused", "policy")] * 4, ("policy", "")]
    details = [one.detail for one in world.recorder.guard_events]
    assert "method: Input should be 'fixed'" in details[1]
    assert "leverage must be at least 12" in details[2]
    assert "max_data_age_secs of the risk policy must be at least a bar" in details[3]
    assert world.held()


def test_a_loss_between_two_closes_flattens(folder: Path) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        # Half of equity in it: 4 % of equity, with no bar that says so.
        world.price *= 0.92
        await world.until(world.flat, "flat", FLAT_SECS)
        await stays_flat(world)

    world = play(folder, script)
    assert world.guard.reasons == "daily_loss"
    assert world.strategy.desk.states[BTC].bar_ts > 0
    assert world.recorder.fills[-1].price == 27_600.0


def test_data_that_stay_away_end_trading(folder: Path) -> None:
    write_policy(folder, max_data_age_secs=1.0)

    async def script(world: World) -> None:
        await world.open_position()
        world.quiet = True
        await world.until(lambda: world.told("hold", "stale_data"), "stale")
        await asyncio.sleep(0.3)
        # Nothing trades without a quote; with the first one all is closed.
        assert not world.flat()
        world.quiet = False
        await world.until(world.flat, "flat", FLAT_SECS)
        await stays_flat(world)

    assert play(folder, script).guard.reasons == "stale_data"


def test_an_exception_around_the_guard_blocks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(world: World) -> None:
        await world.open_position()

        def boom(*_: Any) -> None:
            raise ArithmeticError("planted")

        monkeypatch.setattr(GuardDesk, "look", boom)
        await world.until(world.flat, "flat", FLAT_SECS)
        assert world.guard.reasons == "guard_failure"
        assert room(world) == (0.0, "halted")

    world = play(folder, script)
    assert "ArithmeticError: planted" in world.guard.state.holds["guard_failure"].detail


def test_a_state_that_cannot_be_stored_ends_trading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        world.state_file.unlink()
        world.state_file.mkdir()
        await world.until(world.flat, "flat", FLAT_SECS)
        await stays_flat(world)
        # The disk is back: what was not stored is, and the hold with it.
        world.state_file.rmdir()
        await world.until(world.state_file.is_file, "stored")

    world = play(folder, script)
    assert world.guard.reasons == "state_unsaved"
    assert set(GuardStore(world.state_file).load().holds) == {"state_unsaved"}


def test_a_damaged_state_starts_halted_and_a_person_releases_it(folder: Path) -> None:
    (folder / "guard.json").write_text('{"format": 1', encoding="utf-8")

    async def script(world: World) -> None:
        await world.until(world.risk_guard.is_running, "running")
        await stays_flat(world)
        assert world.guard.reasons == "state_damaged"
        text = await asyncio.to_thread(release, world.state_file, "anna")
        assert text == "released: state_damaged"
        assert room(world) == (0.001, "")

    world = play(folder, script)
    assert world.guard.level == "normal"
    assert (folder / "guard.json.damaged").read_text(encoding="utf-8") == '{"format": 1'


def test_a_person_halts_and_releases_beside_a_running_process(folder: Path) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        with pytest.raises(ConfigError, match="must be flat before a release"):
            await asyncio.to_thread(release, world.state_file, "anna")
        assert world.told("refused", "release")
        text = await asyncio.to_thread(halt, world.state_file, "anna", "the news")
        assert text == "halted: manual"
        await world.until(world.flat, "flat", FLAT_SECS)
        await world.until(lambda: world.guard.level == "halted", "halted")
        assert status(world.state_file).running
        assert await asyncio.to_thread(release, world.state_file, "anna") == "released: manual"
        assert room(world) == (0.001, "")

    world = play(folder, script)
    found = status(world.state_file)
    assert not found.running
    assert found.state.level() == "normal"
    told = json.loads(json.dumps(found.to_json()))
    events = [(one["kind"], one["detail"]) for one in told["history"] if one["kind"] != "refused"]
    assert events == [
        ("hold", "anna: the news"),
        ("flat", "nothing is open any more"),
        ("release", "released by anna"),
    ]


def test_a_clock_a_day_ahead_ends_trading_until_a_person_says_the_time(folder: Path) -> None:
    async def script(world: World) -> None:
        await world.open_position()
        true = world.guard.state.ts
        world.risk_guard.look(true + NS_PER_DAY)
        assert world.guard.reasons == "stale_data"
        await world.until(world.flat, "flat", FLAT_SECS)
        # The clock is right again, but time does not go back.
        await stays_flat(world)
        assert world.guard.state.ts == true + NS_PER_DAY
        await asyncio.to_thread(release, world.state_file, "anna")
        assert room(world) == (0.001, "")
        assert world.guard.state.ts < true + NS_PER_DAY

    world = play(folder, script)
    assert world.told("clock", "")


def test_two_processes_must_not_share_a_state(folder: Path) -> None:
    async def script(world: World) -> None:
        with pytest.raises(ConfigError, match="must belong to one process"):
            GuardStore(world.state_file).claim(wait_secs=0.0)

    play(folder, script)
