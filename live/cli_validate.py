"""`levibot validate` and `levibot truth`: a run held against luck, and the checker checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from live.console import emit, out, progress_bars, tell, user_errors
from live.options import (
    CatalogOption,
    ClusterOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    ProfileOption,
    SetOption,
    WorkersOption,
)

KeepOption = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps finished pieces, to go on from; else OUT.kept."),
]


def validate(
    profile: ProfileOption,
    catalog: CatalogOption,
    out_folder: OutOption,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run whose out-of-sample predictions are judged; else a walk-forward in OUT.run."
        ),
    ] = None,
    groups: Annotated[int, typer.Option(help="Groups of the cross-validation.")] = 6,
    test_groups: Annotated[int, typer.Option(help="Groups that each split tests.")] = 2,
    null_runs: Annotated[int, typer.Option(help="Null markets; 0 for no null test.")] = 100,
    null_kind: Annotated[
        str, typer.Option(help="block_shuffle, random_sign or phase: what a null market keeps.")
    ] = "block_shuffle",
    null_block_bars: Annotated[int, typer.Option(help="Bars of a shuffled block.")] = 1,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    keep: KeepOption = None,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Judge a run: cross-validation paths, overfitting, trials, rivals and null markets."""
    with user_errors():
        from live.profile import load_profile
        from live.validation import Place, validate_run
        from live.validation_options import validation_options
        from research.parallel import Workers

        settings = load_profile(profile, set_ or ())
        options = validation_options(
            cpcv={"n_groups": groups, "n_test_groups": test_groups},
            null={"runs": null_runs, "kind": null_kind, "block_bars": null_block_bars},
            seed=settings.seed,
        )
        who = Workers(workers, cluster)
        place = Place(catalog, run, out_folder, keep, who, overwrite)
        with progress_bars() as progress:
            summary = validate_run(settings, place, options, tell=tell, progress=progress)
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))


def truth(
    out_folder: OutOption,
    seeds: Annotated[int, typer.Option(help="Markets with and without an edge, each.")] = 20,
    edge: Annotated[float, typer.Option(help="The planted edge.")] = 1.0,
    days: Annotated[int, typer.Option(help="Length of a market.")] = 90,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    keep: KeepOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Check the checker: synthetic markets with and without an edge through the pipeline."""
    with user_errors():
        from live.truth import truth_config, truth_table
        from research.parallel import Workers

        config = truth_config(seeds=seeds, edge=edge, days=days)
        with progress_bars() as progress:
            summary = truth_table(
                out_folder,
                config,
                keep=keep,
                workers=Workers(workers, cluster),
                overwrite=overwrite,
                progress=progress,
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))
        summary.require()
