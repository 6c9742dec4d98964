"""`levibot tune`: which settings of a profile hold, found before its test begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from live.console import emit, out, progress_bars, user_errors
from live.options import CatalogOption, JsonOption, OutOption, ProfileOption, SetOption


def tune(
    profile: ProfileOption,
    catalog: CatalogOption,
    out_folder: OutOption,
    trials: Annotated[
        int, typer.Option(help="Configurations to try, those of earlier calls included.")
    ] = 100,
    objective: Annotated[
        str, typer.Option(help="Net Sharpe ratio, log-loss skill, or both: sharpe, skill, both.")
    ] = "both",
    space: Annotated[
        Path | None, typer.Option(help="File with the search space; else the profile's.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds inside the training span.")] = 3,
    tested_frac: Annotated[
        float, typer.Option(help="Last fraction of the training span that they test.")
    ] = 0.5,
    trials_per_fit: Annotated[
        int, typer.Option(help="Every so many-th trial is a new fit, others trade otherwise.")
    ] = 4,
    min_trades: Annotated[
        int, typer.Option(help="Fewest trades with which a configuration is judged.")
    ] = 30,
    workers: Annotated[
        int | None, typer.Option(help="Processes; all cores if left out. 1 repeats bit for bit.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database URL that several machines share.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Ray cluster: auto, or such as ray://10.0.0.1:10001.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="New folder for a bundle of the chosen configuration.")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Try settings inside the training span and take the middle of a plateau; resumable."""
    with user_errors():
        from live.profile import load_profile
        from live.tuning import run_tuning
        from live.tuning_request import TuneOptions, tuning_request
        from research.parallel import available_cores

        options = TuneOptions(
            objective=objective,
            trials=trials,
            folds=folds,
            tested_frac=tested_frac,
            trials_per_fit=trials_per_fit,
            min_trades=min_trades,
            workers=available_cores() if workers is None and cluster is None else workers,
            storage=storage,
            cluster=cluster,
        )
        settings = load_profile(profile, set_ or ())
        request = tuning_request(settings, catalog, out_folder, options, space)
        with progress_bars() as progress:
            summary = run_tuning(request, bundle=bundle, progress=progress)
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))
