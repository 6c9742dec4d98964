"""Whether a profile and a bundle are about the same question: only trading may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.errors import ConfigError
from catalog.timestamps import interval_ns
from research.settings import predictor_spec

if TYPE_CHECKING:
    from live.profile import Profile
    from research.bundle import Bundle


def require_same_question(profile: Profile, bundle: Bundle) -> None:
    """Refuse a profile that describes another model than the bundle holds.

    Raises
    ------
    ConfigError
        Naming the parts that differ.
    """
    config = profile.walk_forward_config()
    length = interval_ns(profile.data.interval)
    asked = predictor_spec(config, profile.data.instruments, length)
    held = bundle.model.spec
    differing = [name for name, digest in asked.parts if dict(held.parts).get(name) != digest]
    if asked.instruments != held.instruments or length != held.interval_ns:
        differing.append("instruments or interval")
    if differing:
        raise ConfigError(
            f"profile {profile.name} must describe the model of bundle {bundle.path.name}, but "
            f"differs in {', '.join(differing)}; only strategy and execution may differ. Use the "
            "profile that the bundle was trained with"
        )
