"""From the words of a command line to what a study is asked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from catalog.errors import ConfigError
from live.profile import Profile, load_profile
from research.models.registry import EXPERT_KINDS, expert_kind
from research.study import BASELINE
from research.study_plan import StudyConfig

if TYPE_CHECKING:
    from catalog.config import Config

ALL, NONE = "all", "none"


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What is asked for beside the profile.

    Parameters
    ----------
    study : StudyConfig
        What is studied.
    command : str
        What reproduces it, as it is printed; without anything of this machine.
    default_experts : tuple of str
        Experts of the profile itself, where the study looks at others.
    fresh : bool
        Whether folds that are kept are thrown away first.
    report_only : bool
        Whether nothing is fitted: the tables are made of what is there.

    Raises
    ------
    ConfigError
        If both are asked for: nothing would be left.
    """

    study: StudyConfig
    command: str
    default_experts: tuple[str, ...] = ()
    fresh: bool = False
    report_only: bool = False

    def __post_init__(self) -> None:
        if self.fresh and self.report_only:
            raise ConfigError(
                "--fresh and --report-only must not both be given: nothing would be left to report"
            )


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """The options of `levibot study` as they were written; lists have commas.

    Parameters
    ----------
    horizons : str
        Bars ahead.
    experts : str, optional
        Experts of the tables, or ``all``; the profile's own if absent.
    ablations : str, optional
        Inputs that are switched, or ``none``; the usual ones if absent.
    ablation_experts : str, optional
        Who judges inputs, or ``all``; lightgbm, or else the first expert, if absent.
    everything, fresh, report_only : bool
        See `StudyConfig` and `StudyRequest`.
    """

    horizons: str = "1,4,16"
    experts: str | None = None
    ablations: str | None = None
    ablation_experts: str | None = None
    everything: bool = False
    fresh: bool = False
    report_only: bool = False


def study_request(
    profile: str, overrides: Sequence[str], options: StudyOptions
) -> tuple[Profile, StudyRequest]:
    """Return the profile with the study's experts, and what is asked.

    Raises
    ------
    ConfigError
        If the profile or an option is wrong.
    """
    own = load_profile(profile, overrides)
    chosen = own.experts.chosen()
    default = tuple(chosen)
    settings = load_profile(profile, [*overrides, *_expert_overrides(chosen, options.experts)])
    experts = tuple(settings.experts.chosen())
    judges = (BASELINE,) if BASELINE in experts else experts[:1]
    if options.ablation_experts == ALL:
        judges = experts
    elif options.ablation_experts is not None:
        judges = tuple(_names(options.ablation_experts))
    wanted: dict[str, Any] = {
        "horizons": tuple(_names(options.horizons)),
        "input_experts": judges,
        "everything": options.everything,
    }
    if options.ablations is not None:
        wanted["inputs"] = tuple(_names(options.ablations))
    try:
        study = StudyConfig.model_validate(wanted)
    except ValidationError as error:
        faults = "; ".join(map(_explain, error.errors()))
        raise ConfigError(f"the study's options are wrong: {faults}") from None
    command = _command(profile, overrides, options)
    return settings, StudyRequest(study, command, default, options.fresh, options.report_only)


_OPTIONS = {
    "horizons": "--horizons",
    "inputs": "--ablations",
    "input_experts": "--ablation-experts",
}


def _explain(fault: Any) -> str:
    """Return what is wrong with an option, and what was given where that is a single value."""
    message = fault["msg"].removeprefix("Value error, ")
    given = f", was {fault['input']!r:.40}" if len(fault["loc"]) > 1 else ""
    return f"{_OPTIONS[fault['loc'][0]]}: {message}{given}"


def _names(text: str) -> list[str]:
    if text == NONE:
        return []
    return [part.strip() for part in text.split(",") if part.strip()]


def _expert_overrides(own: Mapping[str, Config], experts: str | None) -> list[str]:
    """Return the overrides of a profile that make the study's experts its own."""
    if experts is None:
        return []
    # Sentiment needs news among the features, which the study gives it in a span of its own.
    every = [name for name, kind in EXPERT_KINDS.items() if name in own or not kind.inputs]
    wanted = every if experts == ALL else [expert_kind(name).name for name in _names(experts)]
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"--experts must be different ones, were {', '.join(wanted)}")
    # Its own are named, too: a profile that names none has a default, which goes once one is named.
    named = {name: own[name].model_dump(mode="json") if name in own else {} for name in wanted}
    added = [f"experts.{name}={json.dumps(settings)}" for name, settings in named.items()]
    return [*added, *(f"experts.{name}=null" for name in own if name not in wanted)]


def _command(profile: str, overrides: Sequence[str], options: StudyOptions) -> str:
    """Return the command that reproduces a study, on whatever machine."""
    named = {
        # A file's name without its folders, which are this machine's.
        "--profile": Path(profile).name,
        "--horizons": options.horizons,
        "--experts": options.experts,
        "--ablations": options.ablations,
        "--ablation-experts": options.ablation_experts,
    }
    words = ["levibot", "study"]
    words += [word for name, value in named.items() if value is not None for word in (name, value)]
    words += ["--everything"] if options.everything else []
    words += [word for one in overrides for word in ("--set", one)]
    return f"{shlex.join(words)} --catalog CATALOG --out STUDY"
