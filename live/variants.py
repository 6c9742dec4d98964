"""The family of variants that a strategy is one of: what else one would have tried.

The probability that choosing among variants chooses luck depends on which variants there are. The
family is therefore stated, the same for every profile, and chosen without looking at any result:
five entry thresholds, two exits and two widths of the stop around the profile's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from strategies.policy_config import FusionPolicy

ENTRY_STEPS = (-0.02, -0.01, 0.0, 0.01, 0.02)
"""Added to a fixed entry threshold. Neighbours only: beside variants that nobody would take, any
other one looks well chosen, and their losses would count as the spread of luck."""
SWEPT_ENTRIES = (0.53, 0.54, 0.55, 0.56)
"""Tried beside a threshold that each training span finds for itself."""
EXIT_STEPS = (0.0, -0.05)
"""Added to the exit threshold: as it is, and holding on for longer."""
STOP_FACTORS = (1.0, 2.0)
"""Width of the stop in multiples of the profile's own."""
OWN = "as the profile"
"""Name of the profile's own strategy in its family."""


def family(policy: FusionPolicy, least_entry: float = 0.5) -> dict[str, FusionPolicy]:
    """Return the variants of a strategy by name, its own first.

    Parameters
    ----------
    policy : FusionPolicy
        The profile's own.
    least_entry : float
        Entry thresholds at or below this are left out: predictions are flat there.

    Notes
    -----
    Combinations that make no strategy, such as an exit above its entry, are left out, and so are
    those that the profile's own already is.
    """
    found = {OWN: policy}
    own = policy.model_dump(mode="json")
    for name, changes in _combinations(policy):
        entry = changes["entry_threshold"]
        if entry != "swept" and not entry > max(least_entry, 0.5):
            continue
        try:
            variant = FusionPolicy.model_validate({**own, **changes})
        except ValidationError:
            continue
        if variant not in found.values():
            found[name] = variant
    return found


def _combinations(policy: FusionPolicy) -> Iterator[tuple[str, dict[str, Any]]]:
    own = policy.entry_threshold
    entries: list[float | str]
    if isinstance(own, str):
        entries = [own, *SWEPT_ENTRIES]
    else:
        entries = [round(own + step, 4) for step in ENTRY_STEPS]
    for entry in entries:
        for step in EXIT_STEPS:
            leave = round(policy.exit_threshold + step, 4)
            for factor, stop in _stops(policy):
                name = f"entry {entry}, exit {leave:g}" + (f", stop x {factor:g}" if stop else "")
                changes = {"entry_threshold": entry, "exit_threshold": leave, **stop}
                yield name, changes


def _stops(policy: FusionPolicy) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Yield each factor with the settings that it changes; one without any where nothing stops."""
    if policy.stops is None and policy.stop_loss_frac is None:
        yield 1.0, {}
        return
    for factor in STOP_FACTORS:
        if policy.stops is not None:
            stops = policy.stops.model_dump(mode="json")
            for key in ("stop_vol_multiple", "target_vol_multiple"):
                stops[key] = None if stops[key] is None else stops[key] * factor
            yield factor, {"stops": {**stops, "max_frac": min(stops["max_frac"] * factor, 0.5)}}
        else:
            assert policy.stop_loss_frac is not None
            yield factor, {"stop_loss_frac": min(policy.stop_loss_frac * factor, 0.9)}


def family_in_words(policy: FusionPolicy) -> str:
    """Return what the family varies, for a report."""
    own = policy.entry_threshold
    entries = [own, *SWEPT_ENTRIES] if isinstance(own, str) else list(ENTRY_STEPS)
    shown = ", ".join(one if isinstance(one, str) else f"{one:g}" for one in entries)
    moved = "" if isinstance(own, str) else f" added to {own:g}"
    leaves = ", ".join(f"{step:g}" for step in EXIT_STEPS)
    text = f"entry threshold ({shown}{moved}) x exit threshold ({leaves} added to "
    text += f"{policy.exit_threshold:g})"
    if policy.stops is not None or policy.stop_loss_frac is not None:
        text += f" x width of the stop (x {', '.join(f'{one:g}' for one in STOP_FACTORS)})"
    return text
