"""`levibot study`: what each expert, fusion and input is worth."""

from __future__ import annotations

from typing import Annotated

import typer

from live.console import emit, notes, out, progress_bars, user_errors
from live.options import CatalogOption, JsonOption, OutOption, ProfileOption, SetOption


def study(
    profile: ProfileOption,
    catalog: CatalogOption,
    out_folder: OutOption,
    horizons: Annotated[
        str, typer.Option(help="Bars ahead that are studied, such as 1,4,16.")
    ] = "1,4,16",
    experts: Annotated[
        str | None, typer.Option(help="Experts, such as lightgbm,lstm, or all; else the profile's.")
    ] = None,
    ablations: Annotated[
        str | None,
        typer.Option(help="Inputs to switch, such as smc,slow, or none."),
    ] = None,
    ablation_experts: Annotated[
        str | None,
        typer.Option(help="Experts that judge inputs, or all, with their fusion; else lightgbm."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Switch inputs off from all of them together.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Throw kept folds away, or go on with them.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Fit nothing: tables of what is there already.")
    ] = False,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what each expert, fusion and input is worth; go on where it was interrupted."""
    with user_errors():
        from live.study import run_study
        from live.study_request import StudyOptions, study_request

        options = StudyOptions(
            horizons, experts, ablations, ablation_experts, everything, fresh, report_only
        )
        settings, request = study_request(profile, set_ or (), options)
        with progress_bars() as progress:
            summary = run_study(
                settings,
                catalog,
                out_folder,
                request,
                tell=lambda text: notes.print(text, markup=False, soft_wrap=True),
                progress=progress,
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))
