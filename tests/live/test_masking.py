"""Secrets of the environment do not come to light, whoever writes the text that has them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from live.alerts import AlertSender, Severity
from live.engine_log import EngineLog
from live.engine_plan import plan_of
from live.engine_process import ProcessRules
from live.engine_status import EngineStatus
from live.fleet_alerts import FleetAlerts
from live.fleet_observers import FleetLog
from live.masking import Mask, masked
from live.restarts import RestartPolicy
from live.state_folder import StateFolder
from live.supervisor import Supervisor, SupervisorConfig


def test_secrets_of_the_environment_are_masked() -> None:
    variables = {
        "BINANCE_API_KEY": "k" * 20,
        "OKX_API_PASSPHRASE": "k" * 30,
        "API_TOKEN": "short",
        "HOME": "/somewhere/long",
    }
    text = f"refused {'k' * 30} {'k' * 20} short /somewhere/long"
    assert masked(text, variables) == "refused *** *** short /somewhere/long"
    assert "kkk" not in repr(Mask(variables))


def test_each_address_of_several_and_what_is_secret_in_it_are_masked() -> None:
    telegram, mail = (
        "tgram://123456789:AAF-token_of_a_bot/-100200300",
        "mailto://anna:pass.word.1@x.org",
    )
    variables = {"LEVIBOT_ALERT_URLS": f"{telegram}  {mail} json://[bad"}
    mask = Mask(variables)
    assert mask(f"no {mail}, no {telegram}!") == "no ***, no ***!"
    asked = "https://api.telegram.org/bot123456789:AAF-token_of_a_bot/sendMessage"
    assert mask(asked) == "https://api.telegram.org/bot***:***/sendMessage"
    assert mask("anna said pass.word.1 at x.org") == "anna said *** at x.org"


def test_an_engine_that_prints_a_secret_and_dies_leaves_it_in_no_record_log_or_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-secret-of-an-exchange"
    monkeypatch.setenv("BINANCE_API_SECRET", secret)
    program = f"import sys; print('key {secret} is refused'); sys.exit(3)"
    told: list[str] = []

    class Bird:
        def send(self, title: str, body: str, severity: Severity) -> bool:
            told.append(body)
            return True

    sender = AlertSender((Bird(),))
    log = EngineLog(tmp_path / "logs", "supervisor", stem="supervisor")
    observers = (FleetLog(log), FleetAlerts(tmp_path, sender.tell, 60.0))
    rules = ProcessRules(restarts=RestartPolicy(max_failures=1))
    supervisor = Supervisor(
        StateFolder(tmp_path),
        plan_of(["BTCUSDT"]),
        lambda name, plan: (sys.executable, "-c", program),
        SupervisorConfig(rules),
        observers,
    )
    deadline = time.monotonic() + 60.0
    while not supervisor.engines["BTCUSDT"].given_up:
        assert time.monotonic() < deadline
        supervisor.turn(time.monotonic())
        time.sleep(0.02)
    supervisor.registry.publish(EngineStatus(engine="BTCUSDT", last_error=f"{secret}!"))
    assert supervisor.registry.statuses()["BTCUSDT"].last_error == "***!"
    (record,) = supervisor.registry.records().values()
    supervisor.close()
    sender.close()
    log.close()
    why = "ended with exit code 3: key *** is refused"
    assert record.last_error == why
    assert why in told
    (lines,) = (tmp_path / "logs").iterdir()
    assert secret not in lines.read_text()
    assert why in lines.read_text()
