"""What is asked of a signal on the command line, and folders that only their own kind replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.errors import ConfigError
from live.profile import load_profile
from live.runs import check_free, run_folder
from live.signal import RECORD_FILE, SignalOptions


def test_a_profile_says_what_is_measured_beside_the_options() -> None:
    profile = load_profile("perps-swing")
    config = SignalOptions(horizons="4, 16", quantiles=10).config(profile)
    assert config.horizon_bars == profile.label.horizon_bars
    assert config.horizons_bars == (4, 16)
    assert config.quantiles == 10
    assert config.bootstrap == profile.bootstrap


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SignalOptions(horizons="1,x"), "--horizons must be whole numbers with commas between"),
        (SignalOptions(delays=""), "--delays must be whole numbers with commas between"),
        (SignalOptions(horizons="4,1"), "horizons_bars must ascend from 1 on"),
        (SignalOptions(delays="1,2"), "delays_bars must ascend and begin with 0"),
        (SignalOptions(quantiles=1), "greater than or equal to 2"),
        (SignalOptions(column="forward_return"), "forward_return is what happened afterwards"),
        (SignalOptions(column="label"), "label is what happened afterwards"),
    ],
)
def test_what_cannot_be_measured_is_a_mistake_of_the_user(
    options: SignalOptions, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        options.config(load_profile("perps-swing"))


def test_only_a_folder_of_its_kind_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "signal"
    with run_folder(out, marker=RECORD_FILE) as folder:
        (folder / RECORD_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="must be a new folder"):
        check_free(out, overwrite=False, marker=RECORD_FILE)
    with pytest.raises(ConfigError, match=r"is not one \(it has no run.json\)"):
        check_free(out, overwrite=True)
    with run_folder(out, overwrite=True, marker=RECORD_FILE) as folder:
        (folder / RECORD_FILE).write_text("{ }")
    assert (out / RECORD_FILE).read_text() == "{ }"
