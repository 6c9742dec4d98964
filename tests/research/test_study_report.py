"""The page of a study says what its record holds: every number, in tables that are tables."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR
from research.comparisons import ComparisonConfig
from research.metrics import BootstrapConfig
from research.study import horizon_record
from research.study_effects import expert_effects, input_effects, joined_pair
from research.study_plots import study_pictures
from research.study_report import picture_name, study_markdown
from research.study_tables import forecasts_of, measures

TESTS = ComparisonConfig(samples=100)
BOOTSTRAP = BootstrapConfig(samples=40)
SUBSETS = ("without_lightgbm", "without_lstm", "with_heuristic")
METRICS = ("auc", "log_loss_skill", "brier", "accuracy", "accuracy_at_10pct", "accuracy_at_1pct")
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]\d+)?")


def frame_of(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    count = 24 * 30
    odds = random.normal(0.0, 1.0, count)

    def said(share: float) -> np.ndarray:
        noisy = share * odds + random.normal(0.0, 0.1, count)
        return np.asarray(1.0 / (1.0 + np.exp(-noisy)))

    shares = {
        "prob_up": 0.9,
        "expert_lightgbm": 0.8,
        "expert_lstm": 0.4,
        "expert_heuristic": -0.2,
        "fusion_equal": 0.7,
        "fusion_log_pool": 0.9,
        "fusion_without_lightgbm": 0.4,
        "fusion_without_lstm": 0.8,
        "fusion_with_heuristic": 0.5,
        "last_sign_prob": 0.0,
        "logistic_prob": 0.3,
    }
    frame = pd.DataFrame({name: said(share) for name, share in shares.items()})
    frame.loc[:49, "expert_lstm"] = np.nan
    weight = random.random(count)
    return frame.assign(
        ts_init=np.arange(1, count + 1) * NS_PER_HOUR + 19_700 * NS_PER_DAY,
        instrument_id="BTC",
        fold=np.arange(count) // (count // 3),
        label=(random.random(count) < 1.0 / (1.0 + np.exp(-odds))).astype(np.float64),
        base_prob=0.5,
        regime=np.array(["trend", "neutral", ""], dtype=object)[np.arange(count) % 3],
        weight_lightgbm=weight,
        weight_lstm=1.0 - weight,
        weight_heuristic=0.0,
    )


@cache
def small_record() -> str:
    """Return a study's record as JSON, as `live.study` writes it."""
    horizons, inputs = {}, {}
    for seed, horizon in enumerate(("1", "4")):
        frame = frame_of(seed)
        horizons[horizon] = horizon_record(frame, SUBSETS, BOOTSTRAP, TESTS)
        columns = {"expert_lightgbm": "expert_lightgbm"}
        worse = frame.assign(expert_lightgbm=frame["expert_lstm"].fillna(0.5))
        absent = frame.assign(expert_lightgbm=np.nan)
        pairs = {
            "smc": (joined_pair(frame, worse, columns), tuple(columns)),
            "slow": (joined_pair(worse, frame, columns), tuple(columns)),
            "regime": (joined_pair(frame, absent, columns), tuple(columns)),
        }
        inputs[horizon] = input_effects(pairs, TESTS, BOOTSTRAP)
    frame = frame_of(2).rename(columns=lambda name: str(name).replace("lstm", "sentiment"))
    frame = frame.drop(columns=["expert_heuristic", "fusion_with_heuristic"])
    news = {
        "rows": len(frame),
        "from": "2021-06-01",
        "to": "2021-07-31",
        "measures": measures(frame, forecasts_of(frame, ["without_sentiment"]), BOOTSTRAP),
        "experts": expert_effects(frame, ["lightgbm", "sentiment"], TESTS),
    }
    variants = [
        {
            "variant": name,
            "folds": 3,
            "wall": 1234.5 + place,
            "seconds": {"fit lightgbm": 11.0 + place, **({"fit lstm": 222.0} if place else {})},
            "peak_memory_mb": 1500.25 + place,
        }
        for place, name in enumerate(("h1-without-smc", "h1", "h4"))
    ]
    identity = [
        {"name": one["variant"], **{key: f"{key[0] * 12}rest" for key in ("spec", "data", "code")}}
        | {"key": f"{place}" * 64}
        for place, one in enumerate(variants)
    ]
    record = {
        "profile": "small",
        "settings": {"comparison": TESTS.model_dump(mode="json")},
        "market": {"instruments": ["BTC", "ETH"], "interval": "1h", "from": "a", "to": "b"},
        "synthetic": True,
        "horizons": horizons,
        "inputs": inputs,
        "news": {"4": news},
        "switches": {
            name: {"what": f"all of {name}", "on": name == "smc"}
            for name in ("smc", "slow", "regime")
        },
        "left_out": {"flow": "the catalog has no trades"},
        "missing": ["h16", "h16-without-smc"],
        "trials": 17,
        "resources": {"wall": 3706.5, "threads": [1, 2], "variants": variants},
        "provenance": {
            "command": "levibot study --profile small",
            "version": "0.1.0+abc",
            "python": "3.12.1",
            "libraries": {"numpy": "2.1.0", "torch": "absent"},
            "profile_hash": "f" * 64,
            "variants": identity,
        },
    }
    return json.dumps(record, allow_nan=False)


def record_of() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(small_record())
    return found


def sections(page: str) -> dict[str, list[list[list[str]]]]:
    """Return the tables below each heading, as rows of cells, the header first."""
    found: dict[str, list[list[list[str]]]] = {}
    heading, inside = "", False
    for line in page.split("\n"):
        if line.startswith("## "):
            heading, inside = line[3:], False
            found[heading] = []
        is_row = line.startswith("|")
        if is_row and not inside:
            found[heading].append([])
        if is_row:
            assert line.startswith("| ")
            assert line.endswith(" |")
            found[heading][-1].append([cell.strip() for cell in line[1:-1].split("|")])
        else:
            assert not inside or line == "", line  # a table ends with an empty line
        inside = is_row
    return found


def says(cell: str, *values: float | None) -> None:
    """Check that a cell says these numbers, to the digits that it has; none for None."""
    wanted = [value for value in values if value is not None]
    numbers = [one.replace(",", "") for one in NUMBER.findall(cell)]
    assert len(numbers) == len(wanted), (cell, values)
    for text, value in zip(numbers, wanted, strict=True):
        digits = len(text.partition(".")[2].partition("e")[0])
        # Halves may be rounded either way.
        assert abs(float(text) - value) <= 0.5000001 * 10.0**-digits, (cell, value)


def ends(one: dict[str, float | None]) -> tuple[float | None, ...]:
    return one["value"], one["low"], one["high"]


def says_difference(cells: list[str], row: dict[str, Any]) -> None:
    """Check difference (1e-4 nats), p, corrected p, verdict."""
    scaled = [
        row[key] if row[key] is None else 1e4 * row[key] for key in ("difference", "low", "high")
    ]
    says(cells[0], *scaled)
    says(cells[1], row["p"])
    says(cells[2], row["p_holm"])
    assert cells[3] == row["verdict"]


@cache
def page() -> str:
    return study_markdown(record_of())


def body(table: list[list[str]]) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell; headings within a table are left out."""
    rows = [row for row in table[2:] if any(row[1:])]
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def test_tables_are_tables() -> None:
    for heading, tables in sections(page()).items():
        for table in tables:
            header, rule, *rows = table
            assert rows, heading
            assert rule == ["---", *["---:"] * (len(header) - 1)]
            assert {len(row) for row in table} == {len(header)}, heading
    assert not re.search(r"\b(nan|None|inf)\b", page())
    assert "\n\n\n" not in page()
    assert page().endswith("\n")
    assert not page().endswith("\n\n")


HORIZONS = pytest.mark.parametrize(
    ("horizon", "heading"), [("1", "1 bar ahead"), ("4", "4 bars ahead")]
)


@HORIZONS
def test_every_number_of_forecasts_and_experts_is_there(horizon: str, heading: str) -> None:
    found = record_of()["horizons"][horizon]
    tables = sections(page())[heading]
    assert len(tables) == 6
    measured, compared, experts = map(body, tables[:3])
    assert measured.keys() == {row["name"] for row in found["measures"]}
    for row in found["measures"]:
        cells = measured[row["name"]]
        says(cells[0], 100.0 * row["answered"])
        for cell, metric in zip(cells[1:], [*METRICS, "ece"], strict=True):
            says(cell, *ends(row[metric]))
    assert compared.keys() == {row["name"] for row in found["comparisons"]}
    assert len(compared) == len(measured) - 1 - len(SUBSETS)
    for row in found["comparisons"]:
        says(compared[row["name"]][0], row["rows"])
        says_difference(compared[row["name"]][1:], row)
    assert experts.keys() == {"lightgbm", "lstm", "heuristic"}
    for row in found["experts"]:
        says(experts[row["expert"]][0], row["rows"])
        says_difference(experts[row["expert"]][1:], row)


@HORIZONS
def test_every_number_of_inputs_and_weights_is_there(horizon: str, heading: str) -> None:
    found = record_of()["horizons"][horizon]
    inputs, weights, correlation = map(body, sections(page())[heading][3:])
    assert inputs.keys() == {"`smc`", "`slow`", "`regime`"}
    for row in record_of()["inputs"][horizon]:
        judge, *numbers = inputs[f"`{row['input']}`"]
        assert judge == "lightgbm"
        for place, (key, side) in enumerate(
            (key, side) for key in ("auc", "log_loss_skill") for side in ("with", "without")
        ):
            says(numbers[place], row[side][key])
        says_difference(numbers[4:], row)
    assert weights.keys() == {
        *(f"fold {fold}" for fold in range(3)),
        *(f"regime {name}" for name in ("trend", "neutral", "unknown")),
    }
    for kind, key in (("fold", "by_fold"), ("regime", "by_regime")):
        for group in found["weights"][key]:
            cells = weights[f"{kind} {group['group']}"]
            says(cells[0], 100.0 * group["share"])
            for cell, value in zip(cells[1:], group["weights"].values(), strict=True):
                says(cell, value)
    assert list(correlation) == found["correlation"]["names"]
    for name, values in zip(correlation, found["correlation"]["values"], strict=True):
        for cell, value in zip(correlation[name], values, strict=True):
            says(cell, value)
    assert f"{found['rows']:,} labelled rows." in page()


def test_the_page_says_at_first_what_earns_its_place() -> None:
    record = record_of()
    experts, inputs = map(body, sections(page())["What earns its place"])
    news = {one["expert"]: one["verdict"] for one in record["news"]["4"]["experts"]}
    by = {
        horizon: {one["expert"]: one["verdict"] for one in found["experts"]}
        for horizon, found in record["horizons"].items()
    }
    assert experts == {
        "lightgbm": [by["1"]["lightgbm"], by["4"]["lightgbm"]],
        "lstm": [by["1"]["lstm"], by["4"]["lstm"]],
        "heuristic (stands in)": [by["1"]["heuristic"], by["4"]["heuristic"]],
        "sentiment (in 2021)": ["", news["sentiment"]],
    }
    for place, (name, state) in enumerate((("smc", "on"), ("slow", "off"), ("regime", "off"))):
        verdicts = [record["inputs"][horizon][place]["verdict"] for horizon in ("1", "4")]
        assert inputs[f"all of {name} (`{name}`)"] == [state, *verdicts]
    assert {"earns its place", "harms"} <= {one for row in inputs.values() for one in row}


def test_news_time_and_origin_are_there() -> None:
    record, found = record_of(), sections(page())
    news = record["news"]["4"]
    measured, experts = map(body, found["News, 4 bars ahead"])
    for row in news["measures"]:
        for cell, metric in zip(measured[row["name"]][1:], [*METRICS, "ece"], strict=True):
            says(cell, *ends(row[metric]))
    for row in news["experts"]:
        says_difference(experts[row["expert"]][1:], row)
    assert "Tested from 2021-06-01 to 2021-07-31" in page()
    (spent,) = found["Time and memory"]
    assert spent[0] == ["walk-forward", "folds", "wall s", "fit lightgbm", "fit lstm", "peak MiB"]
    for row in record["resources"]["variants"]:
        cells = body(spent)[f"`{row['variant']}`"]
        steps = [row["seconds"].get(step, 0.0) for step in ("fit lightgbm", "fit lstm")]
        numbers = [row["folds"], row["wall"], *steps, row["peak_memory_mb"]]
        for cell, value in zip(cells, numbers, strict=True):
            says(cell, value)
    assert "3,706 s of fitting and predicting in all" in page()
    assert "on 1 or 2 threads" in page()
    (origin,) = found["What reproduces this"]
    for row in record["provenance"]["variants"]:
        assert body(origin)[f"`{row['name']}`"] == [
            f"`{row[key][:12]}`" for key in ("spec", "data", "code", "key")
        ]
    for text in ("```\nlevibot study --profile small\n```", "0.1.0+abc", "numpy 2.1.0", "`ffffff"):
        assert text in page()


def test_the_head_says_what_it_is_and_what_is_missing() -> None:
    head = page().partition("## ")[0]
    for text in (
        "**SYNTHETIC DATA**",
        "**Not finished:** h16, h16-without-smc still to be run",
        "Profile `small`: BTC, ETH, bars of 1h, 3 folds",
        "tried on these folds so far: 17.",
        "alpha is 0.05",
        "- flow: not studied, the catalog has no trades",
    ):
        assert text in head
    whole = record_of() | {"synthetic": False, "missing": [], "left_out": {}}
    head = study_markdown(whole).partition("## ")[0]
    assert not any(text in head for text in ("SYNTHETIC", "Not finished", "not studied"))


def test_pictures_are_those_that_the_page_shows_and_the_same_each_time() -> None:
    found = record_of()["horizons"]["4"]
    pictures = study_pictures(found)
    shown = re.findall(r"!\[[^\]]+\]\((study-\w+-h4\.png)\)", page())
    assert {picture_name(kind, "4") for kind in pictures} == set(shown)
    assert len(shown) == 3
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert study_pictures(copy.deepcopy(found)) == pictures


def test_one_expert_that_never_answered_still_has_a_page() -> None:
    frame = frame_of(3)[["ts_init", "fold", "label", "base_prob", "regime", "prob_up"]]
    frame = frame.assign(expert_lstm=np.nan, weight_lstm=1.0)
    found = json.loads(json.dumps(horizon_record(frame, (), BOOTSTRAP, TESTS)))
    record = record_of() | {"horizons": {"1": found}, "inputs": {"1": []}, "news": {}}
    text = study_markdown(record)
    assert study_pictures(found).keys() == {"folds"}
    assert re.findall(r"\((study-.*\.png)\)", text) == ["study-folds-h1.png"]
    assert body(sections(text)["1 bar ahead"][0])["lstm"] == ["0.0%", *[""] * 7]
    assert "Experts: one alone says nothing" in text
    assert "Inputs: none was studied." in text
