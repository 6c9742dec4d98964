"""What learns from the mirrored market answers there what it answers here, turned round."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from research.experts import FitContext, FittedExpert
from research.features import FeatureMatrix
from research.mirror import Mirror
from research.models.lightgbm_serving import LightGBMExpert
from research.models.registry import fit_expert, load_expert
from tests.contracts.experts import CONFIGS, agree, case, columns, fitted, streamed

KINDS = ("lightgbm", "transformer", "tft", "lstm")


@cache
def mirrored(name: str, samples: int = 3) -> FittedExpert:
    changes = {"mirror": True} | ({} if name == "lightgbm" else {"samples": samples})
    config = CONFIGS[name].model_copy(update=changes)
    return fit_expert(name, case().table, case().train, config, FitContext())


def image() -> FeatureMatrix:
    matrix = case().matrix
    return replace(matrix, values=Mirror.of(matrix.names)(matrix.values))


@pytest.mark.parametrize("name", KINDS)
def test_a_rise_here_is_a_fall_there(name: str) -> None:
    asked = case().asked
    here = mirrored(name).predict(case().matrix, asked)
    there = mirrored(name).predict(image(), asked)
    known = np.isfinite(here.prob_up)
    assert known.mean() > 0.6
    np.testing.assert_allclose(there.prob_up[known], 1.0 - here.prob_up[known], rtol=0, atol=1e-5)
    np.testing.assert_allclose(there.mu, -here.mu, rtol=0, atol=1e-5)
    np.testing.assert_allclose(there.sigma, here.sigma, rtol=1e-5)
    np.testing.assert_allclose(there.epistemic, here.epistemic, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_one_that_never_saw_it_leans_to_a_side(name: str) -> None:
    asked = case().asked
    here, there = (fitted(name).predict(one, asked).prob_up for one in (case().matrix, image()))
    assert np.nanmax(np.abs(there + here - 1.0)) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_stream_and_bundle_turn_round_as_the_batch_does(name: str, tmp_path: Path) -> None:
    matrix, asked = case().matrix, case().asked
    wanted = columns(mirrored(name).predict(matrix, asked))
    mirrored(name).save(tmp_path)
    loaded = load_expert(name, tmp_path, matrix.names)
    agree(name, columns(loaded.predict(matrix, asked)), wanted)
    agree(name, streamed(loaded, matrix)[:, asked], wanted)


def test_one_member_has_its_mirror_image_beside_it_and_says_nothing_of_their_difference() -> None:
    here = mirrored("lstm", samples=1).predict(case().matrix, case().asked)
    assert np.isfinite(here.prob_up).any()
    assert np.isnan(here.epistemic).all()


def test_contributions_add_up_to_the_answer_and_turn_round() -> None:
    expert = mirrored("lightgbm")
    assert isinstance(expert, LightGBMExpert)
    values = case().matrix.values[case().asked[:200]]
    mirror = Mirror.of(case().matrix.names)
    found, image = expert.contributions(values), expert.contributions(mirror(values))
    chance = expert.score(values)
    np.testing.assert_allclose(found.sum(axis=1), np.log(chance / (1.0 - chance)), atol=1e-9)
    np.testing.assert_allclose(image[:, :-1], -found[:, mirror.partner], atol=1e-9)
    np.testing.assert_allclose(found[:, -1], 0.0, atol=1e-12)
