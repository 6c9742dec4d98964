"""From what a command found to the trials that the ledger remembers.

The ledger lies beside the data: ``<catalog>/trials.jsonl``, or where the environment variable
``LEVIBOT_TRIALS`` says. It cannot be switched off: a Sharpe ratio is judged by how often these
data were asked.

A command makes sure at its start that it can record (`TrialLedger.check`), and records its trials
after everything is computed and before its folder is put in its place. So nobody sees a result
that does not count: if the ledger cannot be written the command fails and leaves no folder; if
it is killed in between, the trial counts without a folder, and the same command run again finds
its trial recorded and adds none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError
from catalog.mirror import remote_url
from catalog.timestamps import interval_name
from live.runs import code_version
from research.fold_store import FoldStore, joined
from research.metrics import prediction_metrics
from research.performance import OutcomeFrames, daily_equity, net_return
from research.predictions import hash_parts
from research.trial_ledger import TrialLedger
from research.trials import Trial, TrialData, TrialResults, hash_of

if TYPE_CHECKING:
    from live.profile import Profile
    from research.study_plan import Variant

LEDGER_FILE = "trials.jsonl"
LEDGER_VARIABLE = "LEVIBOT_TRIALS"
"""Names another file for the ledger; one file may serve several catalogs of the same market."""


def ledger_of(catalog: Path) -> TrialLedger:
    """Return the ledger of a catalog's trials; nothing is made yet."""
    named = os.environ.get(LEDGER_VARIABLE)
    if not named and (url := remote_url(catalog)) is not None:
        raise ConfigError(
            f"the ledger of trials must be a file of a disk, the catalog is {url}; name one that "
            f"all who use the catalog share, by {LEDGER_VARIABLE}"
        )
    return TrialLedger(Path(named) if named else catalog / LEDGER_FILE)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a trial's trades were judged on.

    Parameters
    ----------
    data_hash : str
        Of the panel that was read.
    synthetic : bool
        Whether any of it was made up.
    start, end : int
        The replayed span ``(start, end]``, UTC nanoseconds.
    """

    data_hash: str
    synthetic: bool
    start: int
    end: int


def trial_of_replay(
    profile: Profile,
    command: Mapping[str, Any],
    outcome: OutcomeFrames,
    judged: Judged,
    log_loss_skill: float | None = None,
) -> Trial:
    """Return the trial of a replay: its profile, and what its trades earned net of all costs."""
    daily = daily_equity(
        outcome.equity,
        start=judged.start,
        end=judged.end,
        starting_balance=profile.execution.starting_balance,
    )
    results = TrialResults.of_returns(
        daily.returns, net_return=net_return(daily), log_loss_skill=log_loss_skill
    )
    return trial_of_results(profile, command, results, judged)


def trial_of_results(
    profile: Profile, command: Mapping[str, Any], results: TrialResults, judged: Judged
) -> Trial:
    """Return the trial of a replay that was measured elsewhere, such as in another process."""
    data = profile.data
    return Trial(
        command=command,
        profile=profile.name,
        config=profile.hashed_content(),
        data=TrialData(
            hash=judged.data_hash,
            instruments=data.instruments,
            interval=data.interval,
            start=judged.start,
            end=judged.end,
            synthetic=judged.synthetic,
        ),
        code=code_version(),
        seed=profile.seed,
        results=results,
    )


def trial_of_variant(
    profile: Profile, command: str, variant: Variant, keep: FoldStore, *, synthetic: bool
) -> Trial:
    """Return the trial of one walk-forward of a study, all of whose folds are kept.

    It is scored, not traded. Its code is that which decides folds: a study that goes on after a
    change elsewhere asks nothing anew.
    """
    question, count = keep.question, variant.config.validation.n_folds
    parts = question.parts.items()
    code = {name: digest for name, digest in parts if name.startswith(("code of ", "libraries"))}
    frame = joined(keep, range(count))
    skill = prediction_metrics(frame, samples=0)["log_loss_skill"].value
    return Trial(
        command={"name": "study", "other fusions": question.parts["other fusions"]},
        profile=profile.name,
        config=variant.config.model_dump(mode="json"),
        data=TrialData(
            hash=question.data_hash,
            instruments=question.spec.instruments,
            interval=interval_name(question.spec.interval_ns),
            start=keep.facts(0)["test_start"],
            end=keep.facts(count - 1)["test_end"],
            synthetic=synthetic,
        ),
        code=hash_parts(code),
        seed=profile.seed,
        results=TrialResults(log_loss_skill=skill, outcome=hash_of(keep.hashes(count))),
        label=variant.name,
        parent=hash_of({"command": command, "profile": profile.content_hash()}),
    )


def verdict_of(ledger: TrialLedger, chosen: Trial, *others: Trial) -> dict[str, Any]:
    """Return how often these data were asked and what that leaves of a result, for JSON.

    Parameters
    ----------
    ledger : TrialLedger
        What was tried before, by anybody.
    chosen : Trial
        The result that is judged; counted whether it is recorded yet or not.
    *others : Trial
        Trials of the same command.

    Returns
    -------
    dict
        As `TrialVerdict.as_dict`. It is of this moment: later trials take from the result.
    """
    data = chosen.data
    count = ledger.trials_for((data.start, data.end), data.instruments, chosen, *others)
    return count.deflated(chosen.results).as_dict()


def verdict_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return `verdict_line` below an empty one; nothing for a run older than the ledger."""
    return [] if found is None else ["", verdict_line(found)]


def verdict_line(found: Mapping[str, Any]) -> str:
    """Return `verdict_of` in one line for people."""
    count = found["count"]
    told = "1 trial" if count == 1 else f"{count} trials"
    if found["dsr"] is None:
        return f"{told} on these data; no Sharpe ratio to deflate"
    if count == 1:
        return f"{told} on these data; probabilistic Sharpe ratio against 0: {found['dsr']:.3f}"
    kind = "" if found["spread_measured"] else " (that of luck: too few were traded)"
    return (
        f"{told} on these data, Sharpe ratios spread by {found['spread_used_annual']:.2f} a "
        f"year{kind}; "
        f"luck alone would have found {found['threshold_annual']:.2f}; deflated Sharpe ratio "
        f"(chance to be above that): {found['dsr']:.3f}"
    )
