"""When a failed engine is tried again, and when no more: pure, told the time."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from catalog.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential back-off with jitter, and an end to it.

    Parameters
    ----------
    first_secs : float
        Delay after the first failure; it doubles with each further one.
    most_secs : float
        Longest delay before jitter.
    jitter : float
        Share of a delay that is random, 0 to 1: engines that fell together do not rise together.
    max_failures : int
        So many failures in a row end it until a person starts the engine.
    healthy_secs : float
        After so long without a failure the counter is 0 again.
    """

    first_secs: float = 0.5
    most_secs: float = 60.0
    jitter: float = 0.5
    max_failures: int = 5
    healthy_secs: float = 3_600.0

    def __post_init__(self) -> None:
        """Refuse what would never wait, or wait for ever.

        Raises
        ------
        ConfigError
            Naming the value.
        """
        if not 0.0 < self.first_secs <= self.most_secs:
            raise ConfigError(
                f"first_secs must be positive and at most most_secs ({self.most_secs:g}), "
                f"was {self.first_secs:g}"
            )
        if not 0.0 <= self.jitter <= 1.0:
            raise ConfigError(f"jitter must be 0 to 1, was {self.jitter:g}")
        if self.max_failures < 1:
            raise ConfigError(f"max_failures must be at least 1, was {self.max_failures}")
        if self.healthy_secs <= 0.0:
            raise ConfigError(f"healthy_secs must be positive, was {self.healthy_secs:g}")

    def gives_up(self, failures: int) -> bool:
        """Return whether so many failures in a row are the last."""
        return failures >= self.max_failures

    def delay_secs(self, failures: int, random: Random) -> float:
        """Return how long to wait after so many failures in a row, seconds.

        Parameters
        ----------
        failures : int
            At least 1.
        random : Random
            Draws the jitter: a delay lies between ``(1 - jitter)`` and 1 times the full one.
        """
        # No power of a large number: a counter may be set high by hand.
        full = min(self.first_secs * 2.0 ** min(failures - 1, 64), self.most_secs)
        return full * (1.0 - self.jitter * random.random())
