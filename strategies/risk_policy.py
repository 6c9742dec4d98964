"""The risk policy: one file of limits, checked as a whole, that may change while trading runs.

A file must write down every limit. One that is left out would be a limit that nobody has read,
and a file that was caught half written would silently fall back to defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.strict_yaml import explain, read_settings
from strategies.schedule import MONDAY_MORNING, check_schedule
from strategies.sizing_config import SizingConfig

type InstrumentName = Annotated[str, Field(pattern=r"^[A-Z0-9_-]+\.[A-Z0-9_-]+$")]
"""Such as ``BTCUSDT-PERP.BINANCE``."""


class FoundGroups(Config):
    """Groups found from rolling correlation; see `strategies.correlation`.

    Parameters
    ----------
    limit : float
        Instruments whose returns correlate at least this much belong together.
    window_bars : int
        Bars that the correlation looks back.
    min_bars : int
        Bars that two instruments must share in the window; with fewer their correlation is
        unknown, and what is unknown counts as correlated.
    """

    limit: float = Field(default=0.8, gt=0.0, le=1.0, strict=True)
    window_bars: int = Field(default=2880, ge=3, le=100_000, strict=True)
    min_bars: int = Field(default=96, ge=3, strict=True)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_bars > self.window_bars:
            raise ValueError(
                f"min_bars must be at most window_bars ({self.window_bars}), was {self.min_bars}"
            )
        return self


class RiskPolicy(Config):
    """Every limit that the risk guard keeps, and how size and rebalancing are to be done.

    Fractions are of equity in USDT. An order that adds risk is made smaller, or refused, where it
    would break a limit; a limit on losses and the like stops all trading (see `strategies.guard`).

    Parameters
    ----------
    max_daily_loss : float
        Loss since the first mark of the UTC day, a fraction, at which trading ends for the day.
    max_drawdown : float
        Loss since the highest equity, a fraction, at which trading ends until a person releases.
    max_symbol_share : float
        Largest worth of one instrument's position, a fraction.
    max_positions : int
        Instruments with a position, or with an order that may open one, at one time.
    max_correlated : int
        The same within each correlation group.
    correlated_count : {"all", "same_side"}
        Whether the positions of a group all count, or only those on the order's side: with
        ``same_side`` a short is no burden to a group of longs.
    correlation_groups : dict of str to tuple of str
        Instruments that people know to move together, by a name of the group.
    found_groups : FoundGroups or None
        How further groups are found; None finds none.
    sizing : dict
        Method and fractions: the settings of `strategies.sizing.SizingConfig`, used where the
        strategy has none of its own. Empty: the strategy's `position_frac` sizes.
    min_position_usd, max_position_usd : float
        Smallest and largest worth of a position, USDT.
    rebalance : str or None
        Cron expression in UTC; None never rebalances.
    max_orders_per_second, max_orders_per_minute : int
        Orders that add risk. One more is not sent, and as it means that something runs wild,
        trading ends for the day.
    max_consecutive_losses : int
        Positions closed at a loss in a row, of all instruments, at which trading ends for the day.
    max_rejected_orders : int
        Orders refused by the exchange within an hour at which trading ends for the day.
    max_data_age_secs : float
        Age of an instrument's newest record beyond which nothing is opened in it; age of the
        newest record of all beyond which trading ends for the day. Longer than a bar.
    kill_switch_file : str
        Trading ends when this file is seen. Relative to the folder in which LeviBot runs.
    flatten_retry_secs : float
        After how long, positions still being open, they are cancelled and flattened again.
    max_clock_lag_secs : float
        How much earlier than the newest event an order may be stamped.
    """

    max_daily_loss: float = Field(default=0.03, gt=0.0, lt=1.0, strict=True)
    max_drawdown: float = Field(default=0.10, gt=0.0, lt=1.0, strict=True)
    max_symbol_share: float = Field(default=0.20, gt=0.0, le=10.0, strict=True)
    max_positions: int = Field(default=15, ge=1, strict=True)
    max_correlated: int = Field(default=5, ge=1, strict=True)
    correlated_count: Literal["all", "same_side"] = "all"
    correlation_groups: dict[str, tuple[InstrumentName, ...]] = Field(default_factory=dict)
    found_groups: FoundGroups | None = FoundGroups()
    sizing: dict[str, Any] = Field(default_factory=lambda: {"method": "kelly", "fraction": 0.5})
    min_position_usd: float = Field(default=10.0, ge=0.0, strict=True)
    max_position_usd: float = Field(default=1_000_000.0, gt=0.0, strict=True)
    rebalance: str | None = MONDAY_MORNING
    max_orders_per_second: int = Field(default=50, ge=1, le=10_000, strict=True)
    max_orders_per_minute: int = Field(default=300, ge=1, le=10_000, strict=True)
    max_consecutive_losses: int = Field(default=20, ge=1, strict=True)
    max_rejected_orders: int = Field(default=10, ge=1, le=10_000, strict=True)
    max_data_age_secs: float = Field(default=3_600.0, gt=0.0, strict=True)
    kill_switch_file: str = Field(default="KILL_SWITCH", min_length=1)
    flatten_retry_secs: float = Field(default=2.0, gt=0.0, le=3_600.0, strict=True)
    max_clock_lag_secs: float = Field(default=60.0, ge=0.0, le=86_400.0, strict=True)

    @field_validator("rebalance")
    @classmethod
    def _is_a_schedule(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return check_schedule(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("correlation_groups")
    @classmethod
    def _are_groups(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, members in value.items():
            if len(set(members)) != len(members) or len(members) < 2:
                raise ValueError(
                    f"group {name!r} must be at least two different instruments, "
                    f"was [{', '.join(members)}]"
                )
        return value

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.min_position_usd > self.max_position_usd:
            raise ValueError(
                f"min_position_usd must be at most max_position_usd ({self.max_position_usd}), "
                f"was {self.min_position_usd}: nothing could be opened"
            )
        if self.max_drawdown < self.max_daily_loss:
            raise ValueError(
                f"max_drawdown must be at least max_daily_loss ({self.max_daily_loss}), was "
                f"{self.max_drawdown}: the daily limit would never be reached"
            )
        if self.max_orders_per_minute < self.max_orders_per_second:
            raise ValueError(
                f"max_orders_per_minute must be at least max_orders_per_second "
                f"({self.max_orders_per_second}), was {self.max_orders_per_minute}"
            )
        return self


def load_risk_policy(path: str | Path) -> RiskPolicy:
    """Read a risk policy from YAML; every key must be written down.

    Raises
    ------
    ConfigError
        If it cannot be read, naming every key that is missing, unknown or wrong.
    """
    file = Path(path)
    content = read_settings(file, "risk policy")
    faults = [
        f"  {key}: must be given, was missing; write it down, its usual value is {_usual(key)}"
        for key in RiskPolicy.model_fields
        if key not in content
    ]
    policy = None
    try:
        policy = RiskPolicy.model_validate(content)
    except ValidationError as error:
        faults += [f"  {explain(fault, RiskPolicy, 'risk policy')}" for fault in error.errors()]
    else:
        faults += _sizing_faults(policy)
    if policy is None or faults:
        raise ConfigError(
            f"risk policy {file.name} has {len(faults)} fault(s):\n" + "\n".join(faults)
        ) from None
    return policy


def _sizing_faults(policy: RiskPolicy) -> list[str]:
    """Return what is wrong with a policy's sizing, also where the strategy's own counts."""
    try:
        SizingConfig.model_validate(policy.sizing)
    except ValidationError as error:
        faults = (explain(fault, SizingConfig, "its keys") for fault in error.errors())
        return [f"  sizing: {fault}" for fault in faults]
    return []


def _usual(key: str) -> str:
    value = getattr(RiskPolicy(), key)
    return str(value.model_dump() if isinstance(value, Config) else value)


def _fits_anything(policy: RiskPolicy) -> None:
    """Take every policy."""


class Reloaded(NamedTuple):
    """A policy after looking at its file again.

    `changed` says whether it is another one than before; `refused` why a new file was not taken
    ("" if it was, or is the same).
    """

    policy: RiskPolicy
    changed: bool
    refused: str = ""


def reload_risk_policy(
    path: str | Path, current: RiskPolicy, fits: Callable[[RiskPolicy], None] = _fits_anything
) -> Reloaded:
    """Read the file again; one with any fault is refused whole and `current` stays. Never raises.

    Parameters
    ----------
    path : str or Path
        The file.
    current : RiskPolicy
        What counts now.
    fits : callable
        Raises where a policy, right in itself, does not fit whoever is to keep it.
    """
    try:
        fresh = load_risk_policy(path)
        if fresh != current:
            fits(fresh)
    except Exception as error:
        return Reloaded(current, changed=False, refused=str(error))
    return Reloaded(fresh, changed=fresh != current)


class PolicyWatch:
    """Look at a policy file again and again, and read it only when it has changed.

    Parameters
    ----------
    path : str or Path
        The file.
    policy : RiskPolicy
        What it said when it was loaded.
    fits : callable
        See `reload_risk_policy`.
    """

    def __init__(
        self,
        path: str | Path,
        policy: RiskPolicy,
        fits: Callable[[RiskPolicy], None] = _fits_anything,
    ) -> None:
        self.path = Path(path)
        self.policy = policy
        self._fits = fits
        # Not its present signature: it may have changed since it was loaded.
        self._seen: tuple[int, ...] | None = None

    def poll(self) -> Reloaded | None:
        """Return what a changed file brings; None where the file is as it was.

        A refused file is told once, not at every look.
        """
        signature = self._signature()
        if signature == self._seen:
            return None
        self._seen = signature
        found = reload_risk_policy(self.path, self.policy, self._fits)
        self.policy = found.policy
        return found if found.changed or found.refused else None

    def _signature(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError as error:
            return (error.errno or -1,)
        return (status.st_mtime_ns, status.st_size, status.st_ino)
