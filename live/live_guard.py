"""The risk guard of a live process, assembled: what it remembers, and the files it watches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from catalog.errors import ConfigError
from strategies.execution import ExecutionConfig
from strategies.guard import Guard
from strategies.guard_store import GuardStore
from strategies.guard_watch import GuardWatch
from strategies.policy_config import FusionPolicy
from strategies.risk_policy import PolicyWatch, RiskPolicy
from strategies.settings_check import check_data_age, check_leverage
from strategies.throttle import ENGINE_ORDERS_PER_SECOND, require_room


class LiveGuard(NamedTuple):
    """A guard that outlives its process.

    Parameters
    ----------
    guard : Guard
        For the strategy; as it was when the last process ended.
    watch : GuardWatch
        For the `RiskGuard`.
    store : GuardStore
        Claimed: `GuardStore.give_up` ends that, as the end of the process does.
    """

    guard: Guard
    watch: GuardWatch
    store: GuardStore


class Traded(NamedTuple):
    """What a process trades: instruments, and the length of a bar in nanoseconds."""

    instruments: Sequence[str]
    interval_ns: int


class GuardFiles(NamedTuple):
    """Where a guard's files lie.

    Parameters
    ----------
    state : Path
        What it remembers; one file for each process.
    policy : Path or None
        The risk policy, watched for changes; None never changes it.
    """

    state: Path
    policy: Path | None = None


def live_guard(
    policy: FusionPolicy,
    execution: ExecutionConfig,
    traded: Traded,
    files: GuardFiles,
    orders_per_second: int = ENGINE_ORDERS_PER_SECOND,
) -> LiveGuard:
    """Restore a guard, and watch its files.

    A changed policy counts only if it also fits the strategy, its bars, the account's leverage and
    the engine's throttle, as the first one must.

    Parameters
    ----------
    policy : FusionPolicy
        The strategy's, with its `risk`.
    execution : ExecutionConfig
        The account's.
    traded : Traded
        Instruments and bars.
    files : GuardFiles
        Where they lie.
    orders_per_second : int
        The engine's limit.

    Raises
    ------
    ConfigError
        If there is no risk policy, it does not fit, or another process has the state.
    DataError
        If the state's place cannot be written to.
    """
    if policy.risk is None:
        raise ConfigError(
            "a live process must have a risk policy, had none: name its file as risk: in the "
            "profile's strategy"
        )

    def fits(risk: RiskPolicy) -> None:
        changed = policy.with_risk(risk)
        check_leverage(changed, execution, traded.instruments)
        check_data_age(changed, traded.interval_ns)
        require_room(risk, len(traded.instruments), orders_per_second)

    fits(policy.risk)
    store = GuardStore(files.state)
    store.claim()
    guard = Guard(policy.risk, store.load())
    watched = None if files.policy is None else PolicyWatch(files.policy, policy.risk, fits)
    return LiveGuard(guard, GuardWatch(guard, store, watched), store)
