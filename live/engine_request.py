"""What `levibot live run` is asked to do, checked before anything is started."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapters.connections import Connection
from adapters.venues import Venue, venue_of
from catalog.errors import ConfigError
from catalog.instruments import symbol_of
from catalog.timestamps import format_time, parse_time
from live.engine_status import Mode, check_engine_name

if TYPE_CHECKING:
    from live.profile import Profile
    from live.profile_watch import ProfileSource

ALLOW_LIVE = "LEVIBOT_ALLOW_LIVE"
"""Must be ``yes`` in the environment before anything trades with money."""
_TAG_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


class ReplaySpan(NamedTuple):
    """What is replayed instead of an exchange's feed: ``(start, end]``, UTC nanoseconds.

    `speed` is in seconds of data a second of the clock; None for as fast as it goes.
    """

    start: int
    end: int
    speed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One engine: one process, one node, one strategy over one symbol or a group.

    Parameters
    ----------
    profile : Profile
        Strategy, execution, and the model that `bundle` must hold.
    bundle : Path
        Who predicts.
    state : Path
        Folder that all engines share.
    traded : tuple of str
        Instrument ids that are traded; the others of the profile only help to predict.
    mode : {"paper", "testnet", "live"}
        Paper fills by our own exchange, from the feed of a real one or a replay.
    name : str
        Of the engine, such as ``BTCUSDT``.
    catalog : Path, optional
        History for the warm start; a replay needs it.
    exchange : str, optional
        Address of another server that speaks the venue's protocol.
    inputs : Path, optional
        Settings of the slow inputs (docs/live/inputs.md); None for the defaults of those that the
        bundle looks at.
    replay : ReplaySpan, optional
        Only in paper mode.
    equity : float, optional
        USDT that the engine may count as its own; else all of the account.
    tag : str
        In its orders' identifiers; "" for one that follows from its name.
    speed : float or None
        Of an exchange that plays recorded data: seconds of data a second of the clock; None where
        time passes with the data only.
    claims : bool
        Whether positions that the exchange holds beyond the engine's books become its own.
    source : ProfileSource, optional
        Where the profile comes from: changes of its files are followed.
    """

    profile: Profile
    bundle: Path
    state: Path
    traded: tuple[str, ...]
    mode: Mode = "paper"
    name: str
    catalog: Path | None = None
    exchange: str | None = None
    inputs: Path | None = None
    replay: ReplaySpan | None = None
    equity: float | None = None
    tag: str = ""
    speed: float | None = 1.0
    claims: bool = False
    source: ProfileSource | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        check_engine_name(self.name)
        if self.replay is not None:
            self._check_replay(self.replay)
        if self.equity is not None and not 0.0 < self.equity < 1e12:
            raise ConfigError(f"--equity must be positive, was {self.equity:g} USDT")
        if self.profile.strategy.risk is None:
            raise ConfigError(
                "a live process must have a risk policy, the profile has none: name its file as "
                "risk: in the profile's strategy"
            )
        if self.replay is None:
            self.venue.require_runs()

    def _check_replay(self, replay: ReplaySpan) -> None:
        if self.mode != "paper":
            raise ConfigError(
                f"--replay must come with --mode paper, was {self.mode}: recorded data fill no "
                "order at an exchange"
            )
        if self.exchange is not None:
            raise ConfigError("--replay must come without --exchange: there is one source of bars")
        if self.catalog is None:
            raise ConfigError("--replay must come with --catalog, which has the recorded data")
        if replay.start >= replay.end:
            raise ConfigError(
                f"--replay must end after it begins, was {format_time(replay.start)} to "
                f"{format_time(replay.end)}"
            )

    @property
    def venue(self) -> Venue:
        """The exchange of its instruments."""
        return venue_of(self.profile.data.instruments)

    @property
    def folder(self) -> Path:
        """Its part of the state folder."""
        return self.state / "engines" / self.name

    @property
    def order_tag(self) -> str:
        """What marks its orders among those of the account."""
        return self.tag or engine_tag(self.name)

    def data_connection(self) -> Connection:
        """Return where market data come from: of a paper engine, the real exchange's feed."""
        return Connection("testnet" if self.mode == "testnet" else "live", self.exchange)

    def order_connection(self, variables: Mapping[str, str] | None = None) -> Connection:
        """Return where orders go, with the account's keys.

        Raises
        ------
        ConfigError
            If keys are missing, or nobody has allowed to trade with money.
        """
        variables = os.environ if variables is None else variables
        if self.mode == "paper":
            raise ConfigError("a paper engine sends no orders to an exchange, was asked to")
        if self.mode == "live" and variables.get(ALLOW_LIVE) != "yes":
            raise ConfigError(
                f"--mode live trades with real money: {ALLOW_LIVE} must be yes in the environment, "
                f"was {variables.get(ALLOW_LIVE) or 'not set'!s}; try --mode paper or testnet first"
            )
        keys = self.venue.keys(self.mode, variables)
        return Connection(self.mode, self.exchange, keys)

    def at_risk(self) -> str:
        """Return in words what a live engine may lose, for the person who starts it."""
        risk = self.profile.strategy.risk
        assert risk is not None
        money, equity = "all of the account", self.equity
        day, most = f"{risk.max_daily_loss:.1%}", f"{risk.max_drawdown:.1%}"
        if equity is not None:
            money = f"{equity:,.2f} USDT"
            day += f" ({equity * risk.max_daily_loss:,.2f} USDT)"
            most += f" ({equity * risk.max_drawdown:,.2f} USDT)"
        where = self.exchange or self.venue.title
        return (
            f"{self.mode}: engine {self.name} trades {', '.join(self.traded)} on {where} with "
            f"{money}; a day may lose {day}, all of it {most} before it flattens and stops; at "
            f"most {risk.max_position_usd:,.0f} USDT in one position. Stop everything: touch "
            f"{self.state / 'kill'}"
        )


def engine_tag(name: str) -> str:
    """Return the tag of an engine's orders: five characters that follow from its name."""
    number, digits = zlib.crc32(name.encode()), []
    for _ in range(4):
        number, digit = divmod(number, len(_TAG_LETTERS))
        digits.append(_TAG_LETTERS[digit])
    return "L" + "".join(digits)


def chosen_instruments(profile: Profile, symbols: str | None) -> tuple[str, ...]:
    """Return the instrument ids that ``BTCUSDT,ETHUSDT`` means in a profile; all without any.

    Raises
    ------
    ConfigError
        If one is not among the profile's instruments.
    """
    known = profile.data.instruments
    if not symbols:
        return known
    wanted = [_instrument(one.strip(), known) for one in symbols.split(",") if one.strip()]
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"--symbols must be distinct, were {symbols}")
    # In the profile's order, which is that of the model.
    return tuple(one for one in known if one in wanted)


def _instrument(text: str, known: Sequence[str]) -> str:
    found = [one for one in known if text in (one, one.rpartition(".")[0], symbol_of(one))]
    if len(found) != 1:
        raise ConfigError(
            f"--symbols must name instruments of the profile ({', '.join(known)}), had {text!r}"
        )
    return found[0]


def engine_name(traded: Sequence[str], profile: Profile) -> str:
    """Return the name of an engine: its symbol, or its profile's where there are several."""
    return symbol_of(traded[0]) if len(traded) == 1 else profile.name.replace(".", "-")


def parse_replay(text: str, speed: str) -> ReplaySpan:
    """Return what ``2025-01-01..2025-02-01`` and a speed mean.

    Raises
    ------
    ConfigError
        If it is no span or no speed.
    """
    start, dots, end = text.partition("..")
    if not dots:
        raise ConfigError(f"--replay must look like 2025-01-01..2025-02-01, was {text!r}")
    return ReplaySpan(parse_time(start), parse_time(end), parse_speed(speed))


def parse_speed(text: str) -> float | None:
    """Return seconds of data in a second of the clock; None for ``max``.

    Raises
    ------
    ConfigError
        If it is neither a positive number nor ``max``.
    """
    if text == "max":
        return None
    try:
        pace = float(text)
    except ValueError:
        pace = 0.0
    if not 0.0 < pace <= 1e9:
        raise ConfigError(f"--speed must be a positive number or max, was {text!r}")
    return pace
