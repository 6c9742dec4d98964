"""What was tried in a tuning, and which configuration to take: the middle of a plateau.

The best of many noisy results is mostly luck: its own noise is what made it the best (Smith and
Winkler, 2006, the optimizer's curse), and a parameter that must be hit exactly will be missed
tomorrow. So no single result decides, but that of a neighbourhood:

1. each configuration is worth the mean result of itself and its nearest neighbours, by Gower's
   distance over all parameters (`research.tuning_space`);
2. the best tenth of the configurations by that mean is the plateau;
3. its medoid is chosen, the configuration whose distances to the others of the tenth sum to the
   least: a real one, so that parameters with no order and rules between parameters need no mean.

Configurations that were given up early count as neighbours, by what they had shown until then: a
region of which most was given up is no plateau. They are not chosen themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import rankdata

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import RunFailedError

if TYPE_CHECKING:
    from research.tuning_space import SearchSpace, Value

type Objective = Literal["sharpe", "skill"]
OBJECTIVES: Mapping[str, tuple[Objective, ...]] = {
    "sharpe": ("sharpe",),
    "skill": ("skill",),
    "both": ("sharpe", "skill"),
}
"""What a tuning may look for, and the measures of it; more is better in each."""
LEAST_NEIGHBOURS = 5
LEAST_PLATEAU = 3
PLATEAU_SHARE = 0.1
PRUNE_QUANTILE = 0.25
"""A configuration is given up where it is among the worst quarter after the same folds. Not among
the worse half, as is usual elsewhere: after one fold of two months a Sharpe ratio has a standard
error of more than two, and half of the good ones would be lost."""
PRUNE_LEAST = 8
_FIRM = 0.5


@dataclass(frozen=True, slots=True)
class TunedTrial:
    """One configuration and what it was worth inside the training span.

    Parameters
    ----------
    number : int
        Of the trial.
    params : mapping
        Values by key.
    whole : bool
        Whether it saw every fold; else it was given up before.
    feasible : bool
        Whether it traded often enough to be judged (always, where nothing is traded).
    values : tuple of float
        One for each objective, over the folds that it saw.
    running : tuple of tuple of float
        The same after each fold.
    fit : str
        Of what its predictions are: trials with the same share them.
    facts : mapping
        Trades, net return, seconds and the like, for reports.
    """

    number: int
    params: Mapping[str, Value]
    whole: bool
    feasible: bool
    values: tuple[float, ...]
    running: tuple[tuple[float, ...], ...]
    fit: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """The configuration that is taken, and why.

    Parameters
    ----------
    chosen, best : int
        Numbers of the trial that is taken and of the single best one.
    scores : dict of float
        What each trial is worth by itself; see `scores`.
    means : dict of float
        The mean of each trial's neighbourhood, by number; pruned trials have none.
    neighbours : int
        How many configurations a neighbourhood has, itself included.
    plateau : tuple of int
        The best tenth by that mean, best first.
    front : tuple of int
        Trials that no other beats in one objective without losing in another.
    """

    chosen: int
    best: int
    scores: Mapping[int, float]
    means: Mapping[int, float]
    neighbours: int
    plateau: tuple[int, ...]
    front: tuple[int, ...]

    @property
    def firmness(self) -> float:
        """How much of the best one's lead over the median its neighbours share; NaN without lead.

        1 where they are as good as it is, 0 where they are ordinary, below that where the best
        one stands among bad ones.
        """
        middle = float(np.median(list(self.scores.values())))
        lead = self.scores[self.best] - middle
        return (self._around(self.best) - middle) / lead if lead > 0.0 else math.nan

    def _around(self, number: int) -> float:
        """Return the mean of a trial's neighbours without itself."""
        if self.neighbours < 2:
            return math.nan
        whole = self.means[number] * self.neighbours - self.scores[number]
        return whole / (self.neighbours - 1)

    @property
    def is_plateau(self) -> bool:
        """Whether neighbours keep at least half of the best one's lead: else it is a spike."""
        return bool(self.firmness >= _FIRM)

    @property
    def verdict(self) -> str:
        """``plateau``, ``spike``, or ``unknown`` where the best has no lead or no neighbours."""
        if math.isnan(self.firmness):
            return "unknown"
        return "plateau" if self.is_plateau else "spike"

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "chosen": self.chosen,
            "best": self.best,
            "neighbours": self.neighbours,
            "plateau": list(self.plateau),
            "front": list(self.front),
            "firmness": self.firmness,
            "verdict": self.verdict,
            "scores": {str(number): value for number, value in self.scores.items()},
            "neighbourhood_means": {str(number): value for number, value in self.means.items()},
        }


def scores(trials: Sequence[TunedTrial]) -> dict[int, float]:
    """Return one number for each trial: its value, or its mean rank where there are several.

    Ranks run from 0 (worst) to 1 (best) within each objective, so that none outweighs another.
    """
    values = np.array([one.values for one in trials], dtype=np.float64)
    if values.shape[1] == 1:
        found = values[:, 0]
    else:
        found = (rankdata(values, axis=0) - 1.0).mean(axis=1) / max(len(trials) - 1, 1)
    return {one.number: float(value) for one, value in zip(trials, found, strict=True)}


def choose(trials: Sequence[TunedTrial], space: SearchSpace) -> Choice:
    """Choose the middle of the best plateau.

    Parameters
    ----------
    trials : sequence of TunedTrial
        All that were tried and have a value.
    space : SearchSpace
        Their parameters.

    Raises
    ------
    RunFailedError
        If none of them saw every fold and traded often enough.
    """
    eligible = [at for at, one in enumerate(trials) if one.whole and one.feasible]
    if not eligible:
        most = max((int(one.facts.get("trades", 0)) for one in trials), default=0)
        raise RunFailedError(
            f"one of {len(trials)} trials must have seen every fold and traded often enough to be "
            f"judged, none had (most trades: {most}); tune for longer, widen the space (lower "
            "thresholds trade more), or lower --min-trades"
        )
    own = scores(trials)
    value = np.array([own[one.number] for one in trials])
    distance = space.distances([one.params for one in trials])
    neighbours = min(max(LEAST_NEIGHBOURS, math.ceil(math.sqrt(len(trials)))), len(trials))
    mean = _neighbourhood_means(distance, value, neighbours)
    best = max(eligible, key=lambda at: (value[at], -at))
    size = min(max(LEAST_PLATEAU, math.ceil(PLATEAU_SHARE * len(eligible))), len(eligible))
    plateau = sorted(eligible, key=lambda at: (-mean[at], at))[:size]
    return Choice(
        chosen=trials[_medoid(distance, plateau)].number,
        best=trials[best].number,
        scores=own,
        means={trials[at].number: float(mean[at]) for at in eligible},
        neighbours=neighbours,
        plateau=tuple(trials[at].number for at in plateau),
        front=tuple(trials[at].number for at in _front(trials, eligible)),
    )


def _neighbourhood_means(distance: Float64Array, value: Float64Array, count: int) -> Float64Array:
    """Return the mean value of the `count` points nearest to each, itself the first of them."""
    near = distance.copy()
    np.fill_diagonal(near, -1.0)
    # Stable: of equally near ones the earlier trials count.
    order: Int64Array = np.argsort(near, axis=1, kind="stable")[:, :count]
    # In one order, so that points with the same neighbours have the same mean to the last bit.
    order.sort(axis=1)
    return np.asarray(value[order].mean(axis=1))


def _medoid(distance: Float64Array, members: Sequence[int]) -> int:
    """Return the member nearest to all the others; of equals the first."""
    places = np.array(members)
    return members[int(np.argmin(distance[np.ix_(places, places)].sum(axis=1)))]


def _front(trials: Sequence[TunedTrial], eligible: Sequence[int]) -> list[int]:
    values = {at: np.array(trials[at].values) for at in eligible}
    return [
        at
        for at in eligible
        if not any(
            bool((values[other] >= values[at]).all() and (values[other] > values[at]).any())
            for other in eligible
        )
    ]


def is_hopeless(running: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Return whether a trial is given up after a fold.

    Parameters
    ----------
    running : (n_objectives,)
        Its values over the folds so far.
    others : sequence of (n_objectives,)
        Those of the trials that saw every fold, after the same one.

    Returns
    -------
    bool
        True where it is below the lower quartile of at least `PRUNE_LEAST` others in every
        objective.
    """
    if len(others) < PRUNE_LEAST:
        return False
    limit = np.quantile(np.array(others, dtype=np.float64), PRUNE_QUANTILE, axis=0)
    return bool((np.array(running) < limit).all())


def promising_fits(trials: Sequence[TunedTrial], fit_keys: Sequence[str]) -> list[dict[str, Value]]:
    """Return the parameters of the fits on which further policies are worth a try, best first.

    A fit is worth the best that was made of its predictions so far. The best quarter of them, or
    three, whichever is more.
    """
    seen = [one for one in trials if one.whole]
    if not seen:
        return []
    own = scores(seen)
    best: dict[str, TunedTrial] = {}
    for one in sorted(seen, key=lambda one: (not one.feasible, -own[one.number], one.number)):
        best.setdefault(one.fit, one)
    kept = list(best.values())[: max(LEAST_PLATEAU, math.ceil(len(best) / 4))]
    return [{key: one.params[key] for key in fit_keys} for one in kept]
