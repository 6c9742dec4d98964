"""A live process serves a bundle with what it was shipped with: no package that models are fitted
with is loaded, which would cost most of its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightgbm", "sklearn", "scipy", "numba", "onnx", "onnxscript", "sympy")
"""Packages of training; numba too, since the kernels run as plain Python with the same bits."""

FIT = """
import sys
from pathlib import Path
from research.bundle import save_bundle
from research.models.deep.config import LSTMConfig, TransformerConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.training import train_until
from tests.research.experiments import config, panel, time_at

tiny = dict(d_model=8, samples=2, epochs=1, chunk_bars=64, batch_bars=512)
deep = dict(
    lstm=LSTMConfig(**tiny, layers=1, period_bars=16),
    transformer=TransformerConfig(**tiny, heads=2, layers=2, reach_bars=13, feedforward=8),
)
experts = ExpertsConfig(
    lightgbm=LightGBMConfig(n_trees=8, min_rows_in_leaf=30),
    heuristic=HeuristicConfig(),
    **(deep if sys.argv[2] == "all" else {}),
)
settings = config().model_copy(update={"experts": experts})
save_bundle(Path(sys.argv[1]), train_until(panel(), settings, time_at(0.6)))
"""

SERVE = f"""
import json, sys
from pathlib import Path
import live.live_replay, live.node, live.warm_start, strategies.predictor_actor
from live.warm_start import feed_history
from research.predictor import BundlePredictor
from tests.research.markets import Market, bars_by_time

panel = Market(seed=0, slots=2_600, missing=0.01).panel()
predictor = BundlePredictor.from_folder(Path(sys.argv[1]), compiled=False)
times = bars_by_time(panel)
until = sorted(times)[-20]
feed_history(predictor, panel.bars, panel.funding, until)
found = [one for ts in sorted(times) if ts > until for one in predictor.update(ts, times[ts])]
experts = sorted({{name for one in found for name, p, _ in one.experts if p == p}})
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([len(found), experts, loaded]))
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("which", "experts"),
    [
        pytest.param("rows", ["heuristic", "lightgbm"]),
        pytest.param(
            "all", ["heuristic", "lightgbm", "lstm", "transformer"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_live_process_loads_nothing_that_only_training_needs(
    tmp_path: Path, which: str, experts: list[str]
) -> None:
    run(FIT, str(tmp_path / "bundle"), which)
    predictions, answering, loaded = json.loads(run(SERVE, str(tmp_path / "bundle")))
    assert predictions > 30
    # It would prove little if an expert had not been asked.
    assert answering == experts
    assert loaded == []
