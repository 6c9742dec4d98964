"""A study on a small market: killed and resumed, asked again with other settings, damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adapters.synthetic import SyntheticConfig
from catalog.errors import ConfigError, DataError
from live.cli import app
from live.profile import load_profile
from live.study import run_study
from live.study_request import StudyOptions, StudyRequest, study_request
from live.study_sessions import alone
from live.synthesis import make_market
from research.study_plan import StudyConfig
from research.study_plots import study_pictures

ROOT = Path(__file__).resolve().parents[2]
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
END = "2024-02-04"
SMALL = (
    f'--set=data.instruments=["{BTC}", "{ETH}"]',
    "--set=features.ratios=[]",
    f"--set=data.end={END}",
    "--set=validation.test_start=2024-01-24",
    "--set=validation.n_folds=2",
    "--set=experts.lightgbm.n_trees=5",
    "--set=experts.heuristic={}",
    "--set=bootstrap.samples=20",
    "--set=threads=1",
)
VARIANTS = tuple(f"h{h}{name}" for h in (1, 4) for name in ("", "-without-funding"))


@pytest.fixture(scope="module", autouse=True)
def _quick_pictures() -> Iterator[None]:
    """Drawing takes longer than all the rest; test_study_report.py draws."""

    def pictures(found: Any) -> dict[str, bytes]:
        content = json.dumps(found, sort_keys=True).encode()
        return dict.fromkeys(("reliability", "folds", "weights"), content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("live.study.study_pictures", pictures)
        yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC, ETH), end=END, news_per_day=0.0))
    return folder


def arguments(catalog: Path, out: Path, *more: str) -> list[str]:
    """Return the words of a small study; what comes later replaces what comes first."""
    fixed = ["--horizons=1,4", "--ablations=funding,slow"]
    return ["study", "-p", "synthetic", *SMALL, "-c", str(catalog), "-o", str(out), *fixed, *more]


def study(catalog: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, arguments(catalog, out, *more))


@pytest.fixture(scope="module")
def whole(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing has interrupted; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "study"
    done = study(catalog, out)
    assert done.exit_code == 0, done.stderr
    assert "slow is not studied: the catalog has no coinmetrics.btc" in done.stderr
    return out


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """The same study, to be changed; times of files are kept."""
    shutil.copytree(whole, tmp_path / "study")
    return tmp_path / "study"


def timeless(page: str) -> str:
    """Return a page without what depends on the machine's speed."""
    before, _, rest = page.partition("## Time and memory")
    assert rest
    return before + rest[rest.index("## What reproduces this") :]


def tables(folder: Path) -> dict[str, Any]:
    """Return all that must be the same however a study was interrupted."""
    record = json.loads((folder / "study.json").read_text())
    assert record.pop("resources")
    facts = {}
    for path in folder.glob("folds/*/*.json"):
        fact = json.loads(path.read_text())
        del fact["seconds"], fact["peak_memory_mb"]
        facts[str(path.relative_to(folder))] = fact
    files = [*folder.glob("folds/*/*.parquet"), *folder.glob("*.png"), folder / "profile.yaml"]
    return {
        "page": timeless((folder / "study.md").read_text()),
        "record": record,
        "facts": facts,
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in files},
    }


def written(folder: Path) -> dict[str, int]:
    """Return when each fold was written, by name."""
    return {
        f"{path.parent.name}/{path.stem}": path.stat().st_mtime_ns
        for path in folder.glob("folds/*/*.parquet")
    }


def refitted(folder: Path, before: dict[str, int]) -> set[str]:
    return {name for name, when in written(folder).items() if before.get(name) != when}


def sessions(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "sessions.json").read_text())
    return found


def test_the_folder_holds_what_was_asked_and_nothing_half_written(whole: Path) -> None:
    assert written(whole).keys() == {f"{name}/fold-{i}" for name in VARIANTS for i in range(2)}
    record = json.loads((whole / "study.json").read_text())
    assert list(record["horizons"]) == list(record["inputs"]) == ["1", "4"]
    assert record["missing"] == []
    assert record["trials"] == len(VARIANTS) == len(sessions(whole))
    assert record["synthetic"] is True
    assert "**SYNTHETIC DATA**" in (whole / "study.md").read_text()
    assert [row["input"] for row in record["inputs"]["4"]] == ["funding"]
    assert not list(whole.rglob("*.partial"))
    assert {path.name for path in whole.glob("*.png")} == {
        f"study-{name}-h{h}.png" for name in ("reliability", "folds", "weights") for h in (1, 4)
    }


def test_time_and_memory_are_what_was_measured(whole: Path) -> None:
    record = json.loads((whole / "study.json").read_text())["resources"]
    rows = {row["variant"]: row for row in record["variants"]}
    assert list(rows) == list(VARIANTS)
    assert record["threads"] == [1]
    assert record["wall"] == pytest.approx(sum(row["wall"] for row in rows.values()))
    for entry in sessions(whole):
        row = rows[entry["variant"]]
        assert (row["wall"], row["folds"], entry["folds"]) == (entry["seconds"], 2, 2)
        # On one thread, the steps are parts of the whole.
        assert 0.0 < sum(row["seconds"].values()) < row["wall"]
        assert {"fit lightgbm", "predict"} <= row["seconds"].keys()
        assert 0.0 < row["peak_memory_mb"] <= entry["peak_memory_mb"]


@pytest.mark.slow
def test_killed_and_resumed_it_says_the_same(catalog: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    command = [sys.executable, "-m", "live.cli", *arguments(catalog, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("folds/h1/fold-*.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    left = written(out)
    assert 0 < len(left) < 2 * len(VARIANTS)
    assert not (out / "study.md").exists()
    # What a process that dies in the middle of a file leaves behind.
    for path in (out / ".study.md.1.partial", out / "folds" / "h1" / ".fold-1.json.partial"):
        path.write_bytes(b"half")
    done = study(catalog, out)
    assert done.exit_code == 0, done.stderr
    assert "made anew" not in done.stderr
    assert refitted(out, left) == set(written(whole)) - set(left)
    assert tables(out) == tables(whole)
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_an_error_leaves_what_is_done_and_says_where(
    catalog: Path, whole: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "folds" / "h4")
    (copied / "study.md").unlink()

    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("the original words")

    with monkeypatch.context() as patch:
        patch.setattr("research.fold_runs.predict_rows", fail)
        done = study(catalog, copied)
    assert done.exit_code == 5
    assert "ArithmeticError: the original words" in done.stderr
    assert "in the walk-forward h4; folds that were done are kept" in done.stderr
    assert sessions(copied)[-1] | {"seconds": 0, "peak_memory_mb": 0} == {
        "variant": "h4",
        "key": sessions(whole)[2]["key"],
        "threads": 1,
        "folds": 0,
        "seconds": 0,
        "peak_memory_mb": 0,
    }
    assert not (copied / "study.md").exists()
    assert study(catalog, copied).exit_code == 0
    assert tables(copied) == tables(whole)


def test_nothing_is_fitted_twice(catalog: Path, whole: Path, copied: Path) -> None:
    done = study(catalog, copied)
    assert done.exit_code == 0
    assert refitted(copied, written(whole)) == set()
    assert sessions(copied) == sessions(whole)
    assert (copied / "study.md").read_bytes() == (whole / "study.md").read_bytes()
    assert (copied / "study.json").read_bytes() == (whole / "study.json").read_bytes()


@pytest.mark.slow
def test_a_changed_setting_refits_what_it_touches_and_says_so(
    catalog: Path, whole: Path, copied: Path
) -> None:
    # Only the tables of all experts know the heuristic; inputs are judged by trees alone.
    done = study(catalog, copied, "--set=experts.heuristic.tilt=0.05")
    assert done.exit_code == 0, done.stderr
    touched = {f"{name}/fold-{i}" for name in ("h1", "h4") for i in range(2)}
    assert refitted(copied, written(whole)) == touched
    for name in touched:
        variant, fold = name.split("/fold-")
        told = f"{variant}, fold {fold} must be made anew: expert heuristic changed"
        assert told in done.stderr
    record = json.loads((copied / "study.json").read_text())
    assert record["trials"] == len(VARIANTS) + 2
    # The time of the other question is not this one's.
    walls = {row["variant"]: row["wall"] for row in record["resources"]["variants"]}
    assert walls["h1"] == [one["seconds"] for one in sessions(copied) if one["variant"] == "h1"][1]


def test_intervals_and_threads_touch_no_fold(catalog: Path, whole: Path, copied: Path) -> None:
    done = study(catalog, copied, "--set=bootstrap.samples=30", "--set=threads=2")
    assert done.exit_code == 0, done.stderr
    assert refitted(copied, written(whole)) == set()
    assert (copied / "study.md").read_bytes() != (whole / "study.md").read_bytes()


def test_report_only_tells_what_is_missing_and_why(
    catalog: Path, whole: Path, copied: Path
) -> None:
    more = study(catalog, copied, "--report-only", "--horizons=1,8", "--json")
    assert more.exit_code == 0, more.stderr
    missing = ["h8", "h8-without-funding"]
    assert json.loads(more.stdout)["missing"] == missing
    page = (copied / "study.md").read_text()
    assert f"**Not finished:** {', '.join(missing)} still to be run" in page
    assert {path.name for path in copied.glob("*.png")} == {
        f"study-{kind}-h1.png" for kind in ("reliability", "folds", "weights")
    }
    other = study(catalog, copied, "--report-only", "--set=experts.heuristic.tilt=0.05")
    assert other.exit_code == 2
    assert "h4, fold 1 must be made anew: expert heuristic changed" in other.stderr
    assert "must have one horizon's experts done" in other.stderr
    assert refitted(copied, written(whole)) == set()


def test_report_only_of_nothing_is_an_error_and_makes_no_folder(
    catalog: Path, tmp_path: Path
) -> None:
    absent = study(catalog, tmp_path / "absent", "--report-only")
    assert absent.exit_code == 2
    assert "must be a study's folder for --report-only" in absent.stderr
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    empty = study(catalog, tmp_path / "empty", "--report-only")
    assert empty.exit_code == 2
    assert "must have one horizon's experts done" in empty.stderr
    assert list((tmp_path / "empty").iterdir()) == []


def test_fresh_fits_all_again_to_the_same_tables(catalog: Path, whole: Path, copied: Path) -> None:
    small = ("--horizons=1", "--ablations=none")
    done = study(catalog, copied, *small, "--fresh")
    assert done.exit_code == 0, done.stderr
    assert written(copied).keys() == {"h1/fold-0", "h1/fold-1"}
    assert refitted(copied, written(whole)) == {"h1/fold-0", "h1/fold-1"}
    assert (
        tables(copied)["files"]["folds/h1/fold-1.parquet"]
        == (whole / "folds" / "h1" / "fold-1.parquet").read_bytes()
    )
    # What was tried before counts as tried.
    assert json.loads((copied / "study.json").read_text())["trials"] == len(VARIANTS)
    assert "Inputs: none was studied." in (copied / "study.md").read_text()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def test_damaged_folds_are_made_anew_and_no_other(catalog: Path, whole: Path, copied: Path) -> None:
    cut(copied / "folds" / "h4" / "fold-1.json")
    flip(copied / "folds" / "h4-without-funding" / "fold-0.parquet")
    before = written(copied)
    done = study(catalog, copied)
    assert done.exit_code == 0, done.stderr
    assert refitted(copied, before) == {"h4/fold-1", "h4-without-funding/fold-0"}
    assert tables(copied) == tables(whole)
    assert "h4, fold 1 must be made anew: how it went is not known" in done.stderr
    assert "h4-without-funding, fold 0 must be made anew: " in done.stderr


@pytest.mark.parametrize("content", ['[{"variant": "h1", "ke', "{}{}", '[{"variant": 1}]', "[3]"])
def test_a_damaged_record_of_sessions_is_an_error(
    catalog: Path, copied: Path, content: str
) -> None:
    (copied / "sessions.json").write_text(content)
    done = study(catalog, copied)
    assert done.exit_code == 4
    assert "must be the record of what was run, is damaged" in done.stderr
    assert "remove it and go on" in done.stderr
    assert (copied / "sessions.json").read_text() == content


def test_another_folder_is_left_alone(catalog: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "profile.yaml").write_text("name: mine\n")
    done = study(catalog, mine, "--fresh")
    assert done.exit_code == 2
    assert "must be a new folder or a study's" in done.stderr
    assert [path.name for path in mine.iterdir()] == ["profile.yaml"]
    assert (mine / "profile.yaml").read_text() == "name: mine\n"
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be a folder" in study(catalog, file).stderr


def test_two_processes_do_not_share_a_folder(catalog: Path, whole: Path, copied: Path) -> None:
    with alone(copied):
        done = study(catalog, copied)
        assert done.exit_code == 2
        assert "must be no folder that another command works in now" in done.stderr
        # A look at what is there does no harm.
        assert study(catalog, copied, "--report-only").exit_code == 0
    assert tables(copied) == tables(whole)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("--horizons=0", "horizons must be different numbers of bars, at least 1, were 0"),
        ("--horizons=1,1", "at least 1, were 1, 1"),
        ("--horizons=soon", "--horizons: .*valid integer.*was 'soon'"),
        ("--horizons=none", "--horizons: .*at least 1 item"),
        ("--experts=lightgbm,lightgbm", "--experts must be different ones, were lightgbm, light"),
        ("--experts=oracle", "an expert must be one of .*was 'oracle'"),
        ("--experts=none", "experts must hold at least one"),
        ("--experts=sentiment", "must have the features news_score, there are none"),
        ("--experts=heuristic", "must be fitted on all features, heuristic are not"),
        ("--ablations=smoc", "inputs must be different ones of smc, .*were smoc"),
        ("--ablations=smc,smc", "inputs must be different ones of smc, .*were smc, smc"),
        ("--ablation-experts=lstm", "must be among the experts lightgbm, heuristic, were lstm"),
        ("--ablation-experts=lightgbm,lightgbm", "input experts must be different, were lightgbm"),
        ("--ablation-experts=none", "--ablation-experts: .*at least 1 item"),
        ("--set=label.horizon_bars=0", "label.horizon_bars: .*was 0"),
    ],
)
def test_wrong_words_are_told_before_any_work(
    catalog: Path, tmp_path: Path, wrong: str, told: str
) -> None:
    done = study(catalog, tmp_path / "study", wrong)
    assert done.exit_code == 2, done.output
    assert re.search(told, done.stderr.replace("\n", " ")), done.stderr
    assert not (tmp_path / "study").exists()


def test_what_would_leave_nothing_to_report_is_refused(
    catalog: Path, whole: Path, copied: Path
) -> None:
    done = study(catalog, copied, "--fresh", "--report-only")
    assert done.exit_code == 2
    assert "must not both be given" in done.stderr
    assert written(copied) == written(whole)


def test_one_expert_alone_has_a_page(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    done = study(catalog, out, "--experts=heuristic", "--horizons=1", "--ablations=none")
    assert done.exit_code == 0, done.stderr
    page = (out / "study.md").read_text()
    assert "Experts: one alone says nothing of what another adds." in page
    assert "Log loss against `heuristic` alone" in page
    assert "study-weights-h1.png" not in page


def test_a_horizon_without_labels_is_an_error(catalog: Path, tmp_path: Path) -> None:
    done = study(catalog, tmp_path / "study", "--horizons=3000", "--ablations=none")
    assert done.exit_code in (2, 3), done.output
    assert "fold" in done.stderr


def test_the_command_reproduces_the_study_on_any_machine(tmp_path: Path) -> None:
    profile = tmp_path / "my profile.yaml"
    shutil.copy(ROOT / "live" / "profiles" / "synthetic.yaml", profile)
    options = StudyOptions(horizons="1,4", ablations="none", everything=True)
    _, request = study_request(str(profile), ["seed=3"], options)
    assert request.command == (
        "levibot study --profile 'my profile.yaml' --horizons 1,4 --ablations none --everything "
        "--set seed=3 --catalog CATALOG --out STUDY"
    )


def test_all_experts_are_those_that_the_profile_can_feed() -> None:
    def chosen(*overrides: str, experts: str) -> list[str]:
        options = StudyOptions(experts=experts, ablations="none")
        return list(study_request("synthetic", overrides, options)[0].experts.chosen())

    every = ["lightgbm", "transformer", "tft", "lstm", "heuristic"]
    assert chosen(experts="all") == every
    news = ("features.news=[synthetic_news]", "experts.sentiment={}")
    assert set(chosen(*news, experts="all")) == {*every, "sentiment"}
    assert chosen(experts="lstm") == ["lstm"]
    assert study_request("synthetic", (), StudyOptions(experts="lstm,tft"))[
        1
    ].study.input_experts == ("tft",)


def test_a_request_of_nothing_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match="must not both be given"):
        StudyRequest(StudyConfig(), "", fresh=True, report_only=True)


def test_data_that_a_later_walk_forward_lacks_are_told_before_the_first(
    catalog: Path, tmp_path: Path
) -> None:
    # It is stored, but begins a day after the bars.
    config = StudyConfig(horizons=(1,), inputs=("onchain",), onchain="synthetic.btc")
    profile = load_profile("synthetic", [word.removeprefix("--set=") for word in SMALL])
    with pytest.raises(DataError, match=r"synthetic\.btc must begin no later") as caught:
        run_study(profile, catalog, tmp_path / "study", StudyRequest(config, ""))
    assert caught.value.__notes__ == [
        "the walk-forward h1-with-onchain needs it; change the profile, or leave its input out of "
        "--ablations"
    ]
    assert list((tmp_path / "study").iterdir()) == []


TINY = "d_model: 8, samples: 2, epochs: 1, chunk_bars: 64, batch_bars: 2048"


@pytest.mark.slow
def test_all_experts_fusions_and_inputs_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News, too: its span is moved to where this market has some."""
    monkeypatch.setattr("live.study.study_pictures", study_pictures)
    catalog, out = tmp_path / "catalog", tmp_path / "study"
    make_market(catalog, SyntheticConfig(instruments=(BTC, ETH), end="2024-02-20"))
    overrides = [
        *(word.removeprefix("--set=") for word in SMALL),
        "data.start=2024-01-03",  # on-chain metrics begin a day after the market
        "data.end=2024-02-20",
        "features.regime=true",
        "experts.lightgbm.n_trees=15",
        f"experts.transformer={{{TINY}, heads: 2, layers: 1, reach_bars: 13, feedforward: 8}}",
        f"experts.tft={{{TINY}, heads: 2, period_bars: 16}}",
        f"experts.lstm={{{TINY}, layers: 1, period_bars: 16, mirror: true, refit: true}}",
    ]
    experts = ("lightgbm", "transformer", "tft", "lstm", "heuristic")
    inputs = ("smc", "timeframes", "cross", "relations", "slow", "funding", "funding_terms")
    news = {
        "series": ("synthetic_news.btc",),
        "test_start": "2024-01-24",
        "end": "2024-02-16",
        "n_folds": 1,
    }
    config = StudyConfig.model_validate(
        {
            "horizons": (1, 4),
            "inputs": (*inputs, "onchain", "regime", "mirror", "news"),
            "onchain": "synthetic.btc",
            "news": news,
        }
    )
    told: list[str] = []
    profile = load_profile("synthetic", overrides)
    request = StudyRequest(config, "a test", default_experts=("lightgbm", "lstm"))
    found = run_study(profile, catalog, out, request, tell=told.append).record
    assert found["missing"] == []
    for horizon in ("1", "4"):
        one = found["horizons"][horizon]
        kinds = {row["kind"] for row in one["measures"]}
        assert kinds == {"expert", "fusion", "chosen", "subset", "reference"}
        assert {row["expert"] for row in one["experts"]} == set(experts)
        assert "fusion of default" in {row["name"] for row in one["measures"]}
        assert {row["expert"] for row in found["news"][horizon]["experts"]} == {
            "lightgbm",
            "sentiment",
        }
        tested = {row["input"] for row in found["inputs"][horizon]}
        assert tested == set(config.inputs) - set(found["left_out"])
        assert {"news", "regime", "mirror", "smc"} <= tested
    page = (out / "study.md").read_text()
    assert "sentiment (in 2024)" in page
    for name in ("reliability", "folds", "weights"):
        assert (out / f"study-{name}-h4.png").read_bytes().startswith(b"\x89PNG")
    again = run_study(profile, catalog, out, request).record
    assert again == found
    assert (out / "study.md").read_text() == page
