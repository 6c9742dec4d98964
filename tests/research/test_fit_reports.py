"""The report of a fit is JSON as it stands, whatever the fit found."""

from __future__ import annotations

import json
from dataclasses import replace

from research.fit_reports import fit_report
from research.fitted import FitReports
from research.fusion_fit import ExpertShare, FusionReport
from research.training import train_until
from tests.research.experiments import config, model, panel, time_at


def test_numbers_that_are_none_are_null_and_choices_keep_their_reasons() -> None:
    curve = model().reports.calibration["lightgbm"]
    tail = replace(curve.tails[0], rows=0, predicted=float("nan"), observed=float("nan"))
    curve = replace(curve, tails=(tail, *curve.tails[1:]))
    shares = (ExpertShare("lightgbm", 1.0, 0.68, 0.75), ExpertShare("lstm", 0.5, 0.69, 0.25))
    correlation = ((1.0, float("nan")), (float("nan"), 1.0))
    fusion = FusionReport("log_pool", 99, curve.methods, shares, correlation, curve)
    reports = FitReports({"fit lstm": 1.23456}, {"lightgbm": curve}, fusion, cut_short=("lstm",))
    found = fit_report(replace(model(), reports=reports))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["seconds"] == {"fit lstm": 1.235}
    assert found["cut_short"] == ["lstm"]
    first, second = found["calibration"]["lightgbm"]["tails"][:2]
    assert (first["predicted"], first["observed"]) == (None, None)
    assert second["predicted"] == curve.tails[1].predicted
    assert found["fusion"]["chosen"] == "log_pool"
    assert found["fusion"]["methods"][0]["log_loss"] == curve.methods[0].log_loss
    assert [one["weight"] for one in found["fusion"]["experts"]] == [0.75, 0.25]
    assert found["fusion"]["correlation"] == [[1.0, None], [None, 1.0]]


def test_a_fit_is_measured_on_rows_that_its_experts_did_not_see_where_it_is_asked() -> None:
    found = train_until(panel(), config(), time_at(0.6), measured=True)
    assert found.reports.metrics["n"].value > 200
    assert 0.4 < found.reports.metrics["auc"].value < 0.6, "a random walk, and rows not seen"
    assert model().reports.metrics == {}, "a fold has its test block"
    same = replace(found, reports=model().reports)
    assert fit_report(same)["n_train"] == fit_report(model())["n_train"]


def test_a_model_that_was_loaded_knows_its_rows_and_nothing_of_its_fit() -> None:
    found = fit_report(replace(model(), reports=FitReports()))
    assert found["n_train"] == model().n_rows
    assert (found["seconds"], found["calibration"], found["fusion"]) == ({}, {}, None)
