"""A stream that is silent is told from one that is late, or that was away for a moment."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from live.account_stream import HOLD_SECS, LATE_SECS, StreamWatch, cut_connections


@dataclass
class World:
    """What the stream has told, and what was said of it."""

    heard: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    renewed: int = 0

    def watch(self) -> StreamWatch:
        return StreamWatch(
            lambda order: self.heard, lambda text, level: self.told.append(level), self.renew
        )

    def renew(self) -> None:
        self.renewed += 1


LATE = LATE_SECS + 0.1


def look(watch: StreamWatch, clock: float) -> None:
    """Look as a process does that has not stood still for a while."""
    for before in (1.8, 0.9, 0.0):
        watch.look(clock - before)


def test_a_trade_that_comes_late_is_none_that_was_missed() -> None:
    world = World()
    watch = world.watch()
    watch.learnt("A", ["1"], 0.0)
    look(watch, LATE_SECS)
    world.heard.add("1")
    look(watch, LATE)
    assert world.told == []
    assert watch.refused() is None


def test_what_was_missed_in_one_outage_is_one_miss() -> None:
    world = World()
    watch = world.watch()
    watch.learnt("A", ["1", "2"], 0.0)
    watch.learnt("B", ["3"], 5.0)
    for clock in (LATE, 5.0 + LATE, 1_000.0):
        look(watch, clock)
    assert world.told == ["warning"]
    # The stream is back, and is away again much later.
    watch.told()
    watch.learnt("C", ["4"], 2_000.0)
    look(watch, 2_000.0 + LATE)
    assert world.told == ["warning"] * 2
    assert watch.refused() is None


def test_a_trade_that_is_learnt_again_and_again_is_one_miss() -> None:
    world = World()
    watch = world.watch()
    for clock in (0.0, 10.0, 20.0, 30.0):
        watch.learnt("A", ["1"], clock)
        look(watch, clock + LATE)
    assert world.told == ["warning"]
    assert (world.renewed, watch.refused()) == (0, None)


def test_misses_with_nothing_told_between_are_a_silent_stream_until_it_speaks() -> None:
    world = World()
    watch = world.watch()
    watch.learnt("A", ["1"], 0.0)
    look(watch, LATE)
    watch.learnt("B", ["2"], 3_000.0)
    look(watch, 3_000.0 + LATE_SECS)
    assert watch.refused() is None
    look(watch, 3_000.0 + LATE)
    assert (world.told, world.renewed) == (["warning", "error"], 1)
    refused = watch.refused()
    assert refused is not None
    assert "that of order B" in refused.detail
    watch.told()
    assert watch.refused() is None
    assert world.told[2:] == ["info"]


def test_a_stream_that_says_nothing_after_it_was_made_new_is_given_another_chance() -> None:
    world = World()
    watch = world.watch()
    for clock in (0.0, 100.0):
        watch.learnt("A", [str(clock)], clock)
        look(watch, clock + LATE)
    over = 100.0 + LATE + HOLD_SECS
    look(watch, over)
    assert watch.refused() is not None
    look(watch, over + 0.1)
    assert watch.refused() is None
    # One more miss is enough: nothing was told since.
    watch.learnt("B", ["9"], over + 1.0)
    look(watch, over + 1.0 + LATE)
    assert watch.refused() is not None
    assert world.renewed == 2


def test_connections_are_cut_as_a_fallen_line_is_and_nothing_else() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        theirs, _ = server.accept()
        cut_connections()
        assert (ours.recv(1), theirs.recv(1)) == (b"", b"")
        # What only listens is left alone.
        with socket.create_connection(server.getsockname()) as again, server.accept()[0] as other:
            again.sendall(b"x")
            assert other.recv(1) == b"x"
        theirs.close()


def test_a_trade_is_judged_by_when_it_was_learnt_first() -> None:
    world = World()
    watch = world.watch()
    for clock in (0.0, 5.0, 9.0):
        watch.learnt("A", ["1"], clock)
    look(watch, LATE)
    assert world.told == ["warning"]


def test_what_was_told_of_an_order_before_is_no_word_about_its_later_trades() -> None:
    world = World(heard={"1"})
    watch = world.watch()
    for clock, trade in ((0.0, "2"), (10.0, "3")):
        # It fills in parts: each answer has the first one too, which the stream has told.
        watch.learnt("A", ["1", trade], clock)
        look(watch, clock + LATE)
    assert (world.told, world.renewed) == (["warning", "error"], 1)
    watch.learnt("A", ["1"], 30.0)
    look(watch, 30.0 + LATE)
    assert watch.refused() is not None


def test_a_process_that_stood_still_hears_first_what_was_told_meanwhile() -> None:
    world = World()
    watch = world.watch()
    look(watch, 0.0)
    watch.learnt("A", ["1"], 0.0)
    watch.look(20.0)
    world.heard.add("1")
    look(watch, 22.0)
    assert world.told == []
