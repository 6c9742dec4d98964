"""`levibot signal`: what predictions are worth before anything trades on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from live.console import emit, out, progress_bars, user_errors
from live.options import (
    CatalogOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    ProfileOption,
    SetOption,
)


def signal(
    profile: ProfileOption,
    catalog: CatalogOption,
    predictions: Annotated[
        Path, typer.Option(help="Run whose out-of-sample predictions are the signal.")
    ],
    out_folder: OutOption,
    column: Annotated[
        str, typer.Option(help="Column of the predictions, such as prob_up or expert_lightgbm.")
    ] = "prob_up",
    horizons: Annotated[
        str | None, typer.Option(help="Bars that returns are held, such as 1,4,16.")
    ] = None,
    delays: Annotated[
        str | None, typer.Option(help="Bars by which one is late, beginning with 0.")
    ] = None,
    quantiles: Annotated[int, typer.Option(help="Parts that the signal is divided into.")] = 5,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Show a signal's information coefficient by horizon, quantile spread, decay and turnover."""
    with user_errors():
        from live.profile import load_profile
        from live.signal import SignalOptions, measure_signal

        settings = load_profile(profile, set_ or ())
        options = SignalOptions(column, horizons, delays, quantiles)
        with progress_bars() as progress:
            summary = measure_signal(
                settings,
                catalog,
                predictions,
                out_folder,
                options,
                overwrite=overwrite,
                progress=progress,
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))
