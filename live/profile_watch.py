"""A profile that changes while an engine runs: applied where that is safe, else refused whole.

Safe is what a decision reads anew each time: thresholds, waiting times, sizes and the risk policy.
Everything else has taken shape in something that lives as long as the engine: features and model in
the predictor, stops in orders at the exchange, costs in the account. Who changes such a key along
with a safe one meant both; so none is applied, and the engine goes on as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from catalog.errors import ConfigError
from live.profile import Profile, load_profile, profile_files

SAFE = frozenset(
    f"strategy.{key}"
    for key in (
        "entry_threshold",
        "exit_threshold",
        "position_frac",
        "allow_short",
        "min_holding_bars",
        "exit_after_horizon",
        "hysteresis",
        "regime_shift",
        "volatility_exponent",
        "base_volatility",
        "max_volatility_scale",
        "cooldown_bars",
        "max_degraded_bars",
        "max_epistemic",
        "input_period_bars",
        "max_input_age_bars",
        "edge_margin_bps",
        "sizing",
        "risk",
    )
)
"""Keys that count from the next decision on."""
UNUSED = frozenset({"description", "bootstrap", "threads"})
"""Keys, with all that is in them, that a running engine does not look at."""


class Changed(NamedTuple):
    """What a changed profile brings.

    Parameters
    ----------
    profile : Profile
        What counts now.
    keys : tuple of str
        That changed and count; () if nothing is to be applied.
    refused : str
        Why a changed file was not taken; "" if it was.
    """

    profile: Profile
    keys: tuple[str, ...] = ()
    refused: str = ""


class ProfileSource(NamedTuple):
    """Where a profile comes from: its name or path, and the overrides of the command line."""

    name: str
    overrides: tuple[str, ...] = ()


def changed_keys(before: Profile, after: Profile) -> tuple[str, ...]:
    """Return the keys that differ, such as ``strategy.entry_threshold``."""
    old, new = _flat(before), _flat(after)
    return tuple(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))


class ProfileWatch:
    """Look at a profile's files again and again, and read them only when they have changed.

    Parameters
    ----------
    source : ProfileSource
        Where it comes from.
    profile : Profile
        What counts now.
    fits : callable
        Raises where a profile, right in itself, does not fit the engine.
    """

    def __init__(
        self, source: ProfileSource, profile: Profile, fits: Callable[[Profile], None]
    ) -> None:
        self._source = source
        self._profile = profile
        self._fits = fits
        self._files = profile_files(*source)
        self._seen = self._signature()

    def poll(self) -> Changed | None:
        """Return what changed files bring, or why not; None where they are as they were.

        Never raises. A refused change is told once, and looked at again when it changes again.
        """
        signature = self._signature()
        if signature == self._seen:
            return None
        self._seen = signature
        try:
            found = self._read()
        except Exception as error:
            # A file may be half written; whatever is wrong with it, the engine goes on.
            return Changed(self._profile, refused=str(error))
        self._profile = found.profile
        return found if found.keys else None

    def _read(self) -> Changed:
        fresh = load_profile(self._source.name, self._source.overrides)
        # Its risk policy may be another file by now.
        self._files = profile_files(*self._source)
        self._seen = self._signature()
        keys = changed_keys(self._profile, fresh)
        fixed = [key for key in keys if key not in SAFE and key.partition(".")[0] not in UNUSED]
        if fixed:
            raise ConfigError(
                f"only what each decision reads anew may change while an engine runs, "
                f"{', '.join(fixed)} changed as well: nothing was applied; restart the engine "
                "(`levibot live restart`), or take it back"
            )
        safe = tuple(key for key in keys if key in SAFE)
        if safe:
            self._fits(fresh)
        return Changed(fresh, safe)

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_stat(path) for path in self._files)


def _stat(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or -1,)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _flat(profile: Profile) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for section, content in profile.model_dump(mode="json").items():
        keys = content.items() if isinstance(content, dict) else ()
        found |= {f"{section}.{key}": value for key, value in keys} or {section: content}
    return found
