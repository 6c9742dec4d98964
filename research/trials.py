"""What has been tried on a span of data, and how far the results lie apart.

Whoever looks long enough at the same data finds something. A Sharpe ratio is therefore worth as
much as the number of attempts that stand behind it allows (`research.overfitting`), and nobody
remembers them all: `research.trial_ledger` does. A trial is one configuration with one result on
one span of data; asked again it is the same trial, and is counted once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import IntegrityError
from catalog.timestamps import DAYS_PER_YEAR
from research.overfitting import DeflatedSharpe, SharpeMoments, deflated_sharpe

SCHEMA = 1


def canonical(value: Any) -> str:
    """Return JSON in the one form that is hashed: keys sorted, no blanks, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrialData:
    """What a trial was judged on.

    Parameters
    ----------
    hash : str
        SHA-256 of the content that was read (`Panel.data_hash`).
    instruments : tuple of str
        Instrument ids.
    interval : str
        Such as ``15m``.
    start, end : int
        The tested span ``(start, end]``, UTC nanoseconds: out of sample, without training rows.
    synthetic : bool
        Whether any of it was made up.
    """

    hash: str
    instruments: tuple[str, ...]
    interval: str
    start: int
    end: int
    synthetic: bool = False

    def overlaps(self, span: tuple[int, int], instruments: Iterable[str]) -> bool:
        """Return whether a moment of ``(start, end]`` and an instrument are common to both."""
        start, end = span
        return (
            self.start < end
            and start < self.end
            and not set(instruments).isdisjoint(self.instruments)
        )


@dataclass(frozen=True, slots=True)
class TrialResults:
    """The headline of a trial; None where there is none.

    Parameters
    ----------
    days : int
        Daily returns that the moments are of; 0 where nothing was traded.
    sharpe : float, optional
        Mean over standard deviation (n - 1) of daily returns, per day; net of all costs.
    skew, kurtosis : float, optional
        Of daily returns; 0 and 3 for a normal distribution.
    net_return : float, optional
        Change of equity over the span, fraction.
    log_loss_skill : float, optional
        ``1 - LL / LL_base`` of the predictions.
    outcome : str, optional
        SHA-256 of the daily returns, or of the predictions where nothing was traded. Trials with
        the same outcome drew no new luck and count as one.
    """

    days: int = 0
    sharpe: float | None = None
    skew: float | None = None
    kurtosis: float | None = None
    net_return: float | None = None
    log_loss_skill: float | None = None
    outcome: str | None = None

    @classmethod
    def of_returns(
        cls, returns: Float64Array, *, net_return: float, log_loss_skill: float | None = None
    ) -> Self:
        """Measure daily returns, (n_days,).

        Of a trial that never traded only the length is known: that it earned nothing is no
        Sharpe ratio, and that two such trials are alike does not make them one.
        """
        found = SharpeMoments.of(returns)
        moved = bool(np.any(returns != 0.0))
        values = np.ascontiguousarray(returns, dtype="<f8")
        return cls(
            days=len(returns),
            sharpe=_known(found.sharpe),
            skew=_known(found.skew),
            kurtosis=_known(found.kurtosis),
            net_return=_known(net_return),
            log_loss_skill=None if log_loss_skill is None else _known(log_loss_skill),
            outcome=hashlib.sha256(values.tobytes()).hexdigest() if moved else None,
        )

    @property
    def sharpe_annual(self) -> float | None:
        """The Sharpe ratio per year of 365 days."""
        return None if self.sharpe is None else self.sharpe * math.sqrt(DAYS_PER_YEAR)

    @property
    def moments(self) -> SharpeMoments:
        """What the uncertainty of the Sharpe ratio depends on; NaN where it is not defined."""
        shown = (self.sharpe, self.skew, self.kurtosis)
        return SharpeMoments(self.days, *(math.nan if one is None else one for one in shown))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, the annual ratio among them."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "sharpe_annual": self.sharpe_annual}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was judged on a span of data.

    Parameters
    ----------
    command : mapping
        What was run and what it was given beside the configuration: ``name`` and, say, the hash
        of the predictions that were traded. Without anything of this machine.
    profile : str
        Name of the profile.
    config : mapping
        The complete configuration as JSON.
    data : TrialData
        What it was judged on.
    code : str
        Version and hash of the code that decided the result.
    seed : int
        Seed of every random draw.
    results : TrialResults
        The headline.
    label : str
        Which of several trials of one command, such as ``kelly + guard``; for people.
    parent : str, optional
        Id of the study or tuning run that it belongs to.
    time : int
        When it was recorded, UTC nanoseconds.
    id : str
        SHA-256 of command, configuration, data, code and span; made where it is left empty. Not of
        time, label, parent and results: whoever repeats or resumes a trial repeats its id.
    """

    command: Mapping[str, Any]
    profile: str
    config: Mapping[str, Any]
    data: TrialData
    code: str
    seed: int
    results: TrialResults
    label: str = ""
    parent: str | None = None
    time: int = 0
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", hash_of(self._identity()))

    @property
    def config_hash(self) -> str:
        """SHA-256 of the configuration; a profile's `content_hash` where it is a profile's."""
        return hash_of(self.config)

    def _identity(self) -> dict[str, Any]:
        data = self.data
        return {
            "command": dict(self.command),
            "config": self.config_hash,
            "data": data.hash,
            "instruments": list(data.instruments),
            "interval": data.interval,
            "span": [data.start, data.end],
            "code": self.code,
            "seed": self.seed,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        data = {name: getattr(self.data, name) for name in TrialData.__slots__}
        return {
            "schema_version": SCHEMA,
            "id": self.id,
            "time": self.time,
            "command": dict(self.command),
            "label": self.label,
            "parent": self.parent,
            "profile": self.profile,
            "config_hash": self.config_hash,
            "config": dict(self.config),
            "data": {**data, "instruments": list(self.data.instruments)},
            "code": self.code,
            "seed": self.seed,
            "results": self.results.as_dict(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Return a trial from what `as_dict` gave.

        Raises
        ------
        IntegrityError
            If it was written by a newer version, or lacks a part.
        """
        if found.get("schema_version") != SCHEMA:
            raise IntegrityError(
                f"a trial must have schema_version {SCHEMA}, had {found.get('schema_version')}; "
                "read the ledger with the LeviBot that wrote it"
            )
        try:
            data, results = dict(found["data"]), dict(found["results"])
            results.pop("sharpe_annual")
            own = ("command", "profile", "config", "code", "seed", "label", "parent", "time", "id")
            return cls(
                data=TrialData(**{**data, "instruments": tuple(data["instruments"])}),
                results=TrialResults(**results),
                **{name: found[name] for name in own},
            )
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"a trial must have every part, has not: {error}") from error


@dataclass(frozen=True, slots=True)
class TrialCount:
    """How many trials there were, and how far their Sharpe ratios lie apart.

    Parameters
    ----------
    count : int
        Different trials; those with the same outcome count as one.
    sharpe_count : int
        Those of them that traded and have a Sharpe ratio.
    spread : float, optional
        Standard deviation (n - 1) of these ratios, per day; None with fewer than two.
    best : float, optional
        The largest of them, per day.
    """

    count: int
    sharpe_count: int
    spread: float | None
    best: float | None

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Self:
        """Count trials, whatever they were judged on."""
        kept = distinct(trials)
        ratios = [one.results.sharpe for one in kept if one.results.sharpe is not None]
        return cls(
            count=len(kept),
            sharpe_count=len(ratios),
            spread=float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
            best=max(ratios, default=None),
        )

    @property
    def variance(self) -> float | None:
        """Variance of the Sharpe ratios per day, as the deflated Sharpe ratio's papers have it."""
        return None if self.spread is None else self.spread**2

    def deflated(self, chosen: TrialResults) -> TrialVerdict:
        """Return the deflated Sharpe ratio of one of these trials; see `TrialVerdict`."""
        spread, measured = self.spread, True
        if spread is None and self.count > 1:
            # Luck alone spreads estimates of a ratio of zero by this (Bailey et al. 2014, 3).
            spread, measured = 1.0 / math.sqrt(max(chosen.days - 1, 1)), False
        found = deflated_sharpe(chosen.moments, trials=max(self.count, 1), spread=spread)
        return TrialVerdict(self, found, measured)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON; Sharpe ratios per day and per year."""
        annual = math.sqrt(DAYS_PER_YEAR)
        return {
            "count": self.count,
            "sharpe_count": self.sharpe_count,
            "spread": self.spread,
            "spread_annual": None if self.spread is None else self.spread * annual,
            "best": self.best,
            "best_annual": None if self.best is None else self.best * annual,
        }


@dataclass(frozen=True, slots=True)
class TrialVerdict:
    """What a Sharpe ratio is worth after so many trials.

    Parameters
    ----------
    trials : TrialCount
        Of all trials on data that overlap, the chosen one included.
    deflated : DeflatedSharpe
        The chosen one against the best that luck would have given.
    measured : bool
        Whether the spread is the trials' own; otherwise, with several trials of which fewer than
        two have a Sharpe ratio, it is that of the sampling error of a ratio of zero.
    """

    trials: TrialCount
    deflated: DeflatedSharpe
    measured: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON: those of `TrialCount`, ``dsr`` and what it stands on.

        ``spread_used`` is the trials' own, or that of luck where that is not `measured`, and None
        with one trial; ``threshold`` is what luck alone would have found; ``dsr`` is None where
        the chosen trial has no Sharpe ratio.
        """
        found, annual = self.deflated.as_dict(), math.sqrt(DAYS_PER_YEAR)
        used = found["spread"]
        return {
            **self.trials.as_dict(),
            "spread_measured": self.measured,
            "spread_used": used,
            "spread_used_annual": None if used is None else used * annual,
            "threshold": self.deflated.threshold,
            "threshold_annual": self.deflated.threshold * annual,
            "dsr": found["value"],
        }


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that drew luck of their own, the first of each.

    Two with one id are the same question. Two with one outcome on overlapping data are two
    questions with one answer, such as one asked again after a change of a comment in the code.
    """
    seen: set[object] = set()
    kept = []
    for one in trials:
        keys = {one.id, (one.results.outcome or one.id, one.data.start, one.data.end)}
        if seen.isdisjoint(keys):
            kept.append(one)
        seen |= keys
    return kept


def trials_for(
    trials: Iterable[Trial], span: tuple[int, int], instruments: Iterable[str]
) -> TrialCount:
    """Count the trials whose tested span overlaps another, on a common instrument.

    Parameters
    ----------
    trials : iterable of Trial
        Such as all of a ledger.
    span : (start, end)
        ``(start, end]``, UTC nanoseconds.
    instruments : iterable of str
        Instrument ids. The interval does not matter: an hour is made of its minutes.

    Notes
    -----
    An overlap of a single bar counts in full, and so does a trial that was only scored, not
    traded: both err on the side of counting too many.
    """
    wanted = frozenset(instruments)
    return TrialCount.of(one for one in trials if one.data.overlaps(span, wanted))


@dataclass(frozen=True, slots=True)
class TrialGroup:
    """Trials that overlap in span and instruments, directly or through others of the group."""

    instruments: tuple[str, ...]
    start: int
    end: int
    trials: tuple[Trial, ...]

    @property
    def count(self) -> TrialCount:
        """How many they are, and how far apart."""
        return TrialCount.of(self.trials)

    def as_dict(self) -> dict[str, Any]:
        """Return the group for JSON, its trials by their ids."""
        return {
            "instruments": list(self.instruments),
            "start": self.start,
            "end": self.end,
            "trials": [one.id for one in self.trials],
            **self.count.as_dict(),
        }


def group_trials(trials: Iterable[Trial]) -> list[TrialGroup]:
    """Group trials by the data that they share, in the order of the groups' first times."""
    every = sorted(trials, key=lambda one: (one.data.start, one.time, one.id))
    root = list(range(len(every)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    # In the order of their starts, whoever starts before the furthest end so far overlaps it.
    furthest: dict[str, int] = {}
    for number, one in enumerate(every):
        for name in one.data.instruments:
            last = furthest.get(name)
            if last is not None and one.data.start < every[last].data.end:
                root[find(number)] = find(last)
            if last is None or one.data.end > every[last].data.end:
                furthest[name] = number
    members: dict[int, list[Trial]] = {}
    for number, one in enumerate(every):
        members.setdefault(find(number), []).append(one)
    return [_group(found) for found in members.values()]


def _group(trials: Sequence[Trial]) -> TrialGroup:
    return TrialGroup(
        instruments=tuple(sorted({name for one in trials for name in one.data.instruments})),
        start=min(one.data.start for one in trials),
        end=max(one.data.end for one in trials),
        trials=tuple(sorted(trials, key=lambda one: (one.time, one.id))),
    )
