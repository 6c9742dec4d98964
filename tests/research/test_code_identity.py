"""A kept result is as old as the code that decided it, and no older."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research import code_identity
from research.code_identity import code_parts, source_hash
from research.features import FeatureConfig
from research.labels import LabelConfig
from research.models.deep.config import LSTMConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig
from research.settings import WalkForwardConfig
from research.splits import ValidationConfig

TEXT = '''"""About."""

import math  # for the root


def root(x: float) -> float:
    """Return the root."""
    return math.sqrt(x)
'''


def settings(*, smc: bool = False, lstm: bool = False) -> WalkForwardConfig:
    return WalkForwardConfig(
        features=FeatureConfig(smc=smc),
        label=LabelConfig(horizon_bars=1),
        experts=ExpertsConfig(
            lightgbm=LightGBMConfig(), lstm=LSTMConfig(d_model=4) if lstm else None
        ),
        validation=ValidationConfig(n_folds=2, test_start=0),
    )


@pytest.mark.parametrize(
    "same",
    [
        TEXT.replace("About.", "About something else.\n\nAt length."),
        TEXT.replace("  # for the root", ""),
        TEXT.replace("\n\n\ndef", "\n\n\n\n# here it comes\ndef"),
        TEXT.replace("    ", "  "),
    ],
)
def test_words_for_people_do_not_count(same: str) -> None:
    assert same != TEXT
    assert source_hash(same) == source_hash(TEXT)


@pytest.mark.parametrize(
    "other",
    [
        TEXT.replace("math.sqrt(x)", "math.sqrt(-x)"),
        TEXT.replace("return math", "return -math"),
        TEXT + "\nroot(2.0)\n",
        TEXT.replace("    return", "    if x:\n        return"),
    ],
)
def test_what_the_interpreter_does_counts(other: str) -> None:
    assert source_hash(other) != source_hash(TEXT)


@given(st.text(alphabet="ab #\n", max_size=30))
def test_a_comment_of_whatever_words_changes_nothing(words: str) -> None:
    comment = "".join(f"# {line}\n" for line in words.split("\n"))
    assert source_hash(comment + TEXT) == source_hash(TEXT)


def test_a_string_that_is_a_value_counts() -> None:
    assert source_hash('x = "one"\n') != source_hash('x = "two"\n')
    assert source_hash('f("one")\n') != source_hash('f("two")\n')


def changed(monkeypatch: pytest.MonkeyPatch, module: str, config: WalkForwardConfig) -> set[str]:
    """Return the parts that change with a module's code."""
    before = code_parts(config)
    honest = code_identity._source
    with monkeypatch.context() as patch:
        patch.setattr(
            code_identity,
            "_source",
            lambda name: honest(name) + ("\nCHANGED = 1\n" if name == module else ""),
        )
        code_identity._module_hash.cache_clear()
        after = code_parts(config)
    code_identity._module_hash.cache_clear()
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        ("research.kernels", {"code of features"}),
        ("research.groups.smc", {"code of features"}),
        ("research.groups.cross", set()),
        ("research.labels", {"code of labels"}),
        ("research.fusion_fit", {"code of fits"}),
        ("research.calibrators.beta", {"code of fits"}),
        ("research.models.lightgbm_expert", {"code of lightgbm"}),
        ("research.models.deep.loop", {"code of lstm"}),
        ("research.models.deep.lstm", {"code of lstm"}),
        ("research.models.deep.transformer", set()),
        ("research.models.sentiment", set()),
        ("research.metrics", set()),
        ("research.comparisons", set()),
        ("research.walkforward", set()),
        ("catalog.quality", set()),
    ],
)
def test_a_change_touches_what_runs_through_it(
    monkeypatch: pytest.MonkeyPatch, module: str, parts: set[str]
) -> None:
    assert changed(monkeypatch, module, settings(smc=True, lstm=True)) == parts


def test_what_a_configuration_does_not_use_does_not_touch_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert changed(monkeypatch, "research.groups.smc", settings()) == set()
    assert changed(monkeypatch, "research.models.deep.loop", settings()) == set()
    assert "code of lstm" not in code_parts(settings())


def test_how_rows_are_divided_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_parts(settings())
    honest = code_identity._source

    def moved(name: str) -> str:
        text = honest(name)
        if name != "research.walkforward":
            return text
        return text.replace("usable = np.flatnonzero(", "usable = np.argwhere(")

    monkeypatch.setattr(code_identity, "_source", moved)
    after = code_parts(settings())
    assert {name for name in before if before[name] != after[name]} == {"code of fits"}


def test_another_library_is_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_parts(settings())
    monkeypatch.setattr(code_identity, "version", lambda name: f"{name} of tomorrow")
    after = code_parts(settings())
    assert {name for name in before if before[name] != after[name]} == {"libraries"}
