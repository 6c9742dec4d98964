"""What a tuning is asked, and the profile that it sees: nothing after the profile's test start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalog.errors import ConfigError
from catalog.mirror import remote_url
from catalog.strict_yaml import explain, read_settings
from catalog.timestamps import NS_PER_DAY, format_time
from live.profile import PROFILE_FOLDER, Profile, parse_profile
from live.trial_records import ledger_of
from research.parallel import Workers, available_cores
from research.trials import hash_of
from research.tuning import OBJECTIVES, Objective
from research.tuning_space import SearchSpace, Value, with_settings

SPACE_FOLDER = PROFILE_FOLDER.parent / "spaces"
DEFAULT_SPACE = "default"
DEFAULT_TRIALS = 100
SUFFIX = "-tuned"


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a tuning goes about it.

    Parameters
    ----------
    objective : {"sharpe", "skill", "both"}
        Net Sharpe ratio of replays, log-loss skill of predictions, or both at once.
    trials : int
        Configurations to try, those of earlier calls included.
    folds : int
        Walk-forward folds inside the training span.
    tested_frac : float
        Last fraction of the training span that these folds test.
    trials_per_fit : int
        Every so many-th trial is a new fit; those between make other trades of the predictions of
        a promising one. 1: every trial is a new fit.
    min_trades : int
        A configuration with fewer trades is not judged.
    workers : int, optional
        Processes; None: all that a cluster has cores for.
    storage : str, optional
        Database URL that several machines share; else a journal in the folder.
    cluster : str, optional
        Ray cluster whose machines do the trials; see `research.parallel.Workers`. They need the
        catalog and the ledger under the same paths, and the folder too unless `storage` is given.
    """

    objective: str = "both"
    trials: int = DEFAULT_TRIALS
    folds: int = 3
    tested_frac: float = 0.5
    trials_per_fit: int = 4
    min_trades: int = 30
    workers: int | None = 1
    storage: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(
                f"--objective must be one of {', '.join(OBJECTIVES)}, was {self.objective!r}"
            )
        if not 0.0 < self.tested_frac < 1.0:
            raise ConfigError(
                f"--tested-frac must lie between 0 and 1, was {self.tested_frac:g}: the rest is "
                "what the first fold is fitted on"
            )
        if self.storage is not None and not re.match(r"[a-z0-9+]+://", self.storage):
            raise ConfigError(
                f"--storage must be a database URL such as postgresql://user@host/name, was "
                f"{self.storage!r}; leave it out to keep a journal in the folder"
            )
        least = {"trials": 1, "folds": 2, "trials_per_fit": 1, "min_trades": 0, "workers": 1}
        for name, smallest in least.items():
            given = getattr(self, name)
            if given is not None and given < smallest:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} must be at least {smallest}, was {given}")
        # Here, and not after an hour of features.
        Workers(self.workers, self.cluster)


@dataclass(frozen=True, slots=True)
class TuningRequest:
    """A tuning: a profile, a space, a folder. Workers are given it whole, so it is plain data.

    Parameters
    ----------
    content : dict
        The complete profile as JSON.
    space : SearchSpace
        The parameters that have a meaning for it.
    catalog, out : Path
        Data, and the folder of the tuning.
    options : TuneOptions
        How.
    ledger : Path
        File that trials are recorded in, whoever does them: a worker on another machine does not
        have the environment of the one that asks.
    """

    content: dict[str, Any]
    space: SearchSpace
    catalog: Path
    out: Path
    options: TuneOptions
    ledger: Path

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is looked for."""
        return OBJECTIVES[self.options.objective]

    @property
    def trades(self) -> bool:
        """Whether predictions are replayed."""
        return "sharpe" in self.objectives

    @property
    def seed(self) -> int:
        """Seed of the search, the profile's."""
        return int(self.content["seed"])

    @property
    def threads(self) -> int:
        """Steps of fits that one worker runs beside one another."""
        cores, workers = available_cores(), self.options.workers
        if self.options.cluster is not None or workers is None:
            return 1  # a worker on a cluster is given one core
        return int(self.content["threads"]) if workers == 1 else max(1, cores // workers)

    def profile(self) -> Profile:
        """Return the profile whose settings are tuned."""
        return parse_profile(self.content, str(self.content["name"]))

    def inner_content(self) -> dict[str, Any]:
        """Return the profile's content with data and folds that end where its test begins."""
        data, validation = self.content["data"], self.content["validation"]
        start, end = data["start"], validation["test_start"]
        first = end - round(self.options.tested_frac * (end - start))
        first -= first % NS_PER_DAY
        inner = {
            **validation,
            "n_folds": self.options.folds,
            "test_start": max(first, start + 1),
            "test_end": None,
        }
        return {**self.content, "data": {**data, "end": end}, "validation": inner}

    def inner_profile(self, values: dict[str, Value] | None = None) -> Profile:
        """Return the profile that a trial is judged with, with other settings.

        Raises
        ------
        ConfigError
            If its parts cannot work with one another.
        """
        content = with_settings(self.inner_content(), values or {})
        return parse_profile(content, f"of a trial ({_told(values)})")

    def tuned_profile(self, values: dict[str, Value]) -> Profile:
        """Return the profile with its own data and folds, and tuned settings."""
        content = with_settings(self.content, values)
        before = format_time(self.content["validation"]["test_start"])
        content["name"] = f"{str(content['name']).removesuffix(SUFFIX)}{SUFFIX}"
        content["description"] = f"{content['description']} (tuned on what was before {before})"
        return parse_profile(content, content["name"])

    def question(self, data_hash: str) -> str:
        """Return the hash of all that decides what a trial is and how it is judged.

        Neither the number of trials nor of workers: both may change from call to call.
        """
        options = self.options
        content = {key: one for key, one in self.content.items() if key != "threads"}
        return hash_of(
            {
                "profile": content,
                "space": self.space.model_dump(mode="json"),
                "data": data_hash,
                "objective": options.objective,
                "folds": options.folds,
                "tested_frac": options.tested_frac,
                "trials_per_fit": options.trials_per_fit,
                "min_trades": options.min_trades,
            }
        )


def tuning_request(
    profile: Profile, catalog: Path, out: Path, options: TuneOptions, space: Path | None = None
) -> TuningRequest:
    """Return what a tuning is asked.

    Parameters
    ----------
    profile : Profile
        Whose settings are tuned.
    catalog, out : Path
        Data, and the folder of the tuning.
    options : TuneOptions
        How.
    space : Path, optional
        File with the search space; else the one that comes with LeviBot for the profile's name,
        or the default one, of which the part is taken that has a meaning for the profile.

    Raises
    ------
    ConfigError
        If the space is wrong or does not fit the profile, or the ledger has no place.
    """
    content = profile.model_dump(mode="json")
    own = SPACE_FOLDER / f"{profile.name.removesuffix(SUFFIX)}.yaml"
    default = own if own.is_file() else SPACE_FOLDER / f"{DEFAULT_SPACE}.yaml"
    found = read_space(space or default).fitting(content, strict=space is not None)
    if options.objective == "skill":
        # What is made of the predictions changes nothing about them.
        if not found.fit_keys:
            raise ConfigError(
                "the objective skill needs parameters that decide predictions, the space has "
                "none; choose the objective sharpe or another space"
            )
        found = found.only(found.fit_keys)
    catalog = _located(catalog)
    ledger = ledger_of(catalog).path.absolute()
    return TuningRequest(content, found, catalog, out.absolute(), options, ledger)


def read_space(path: Path) -> SearchSpace:
    """Read a search space.

    Raises
    ------
    ConfigError
        Naming every key that is unknown or wrong.
    """
    content = read_settings(path, "search space")
    try:
        return SearchSpace.model_validate(content)
    except ValidationError as error:
        listed = "\n".join(f"  {explain(one, SearchSpace, 'space')}" for one in error.errors())
        raise ConfigError(f"search space {path.name} has faults:\n{listed}") from None


def _told(values: dict[str, Value] | None) -> str:
    return ", ".join(f"{key}={one}" for key, one in (values or {}).items()) or "unchanged"


def _located(catalog: Path) -> Path:
    """Return a catalog's name as another process finds it, whatever its working directory."""
    return catalog if remote_url(catalog) is not None else catalog.absolute()
