"""The control service's OpenAPI schema, and requests made from it: right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import negative_data_rejection, not_a_server_error

from live import api
from live.api import Service, application
from live.api_door import RequestMetrics
from live.overview import RegistryReader
from live.registry import Registry
from tests.live.control_service import RIGHT, control_service
from tests.live.fleet import make_fleet, supervise

ROUTES = {
    *("GET /healthz", "GET /engines", "GET /engines/status", "GET /ml/predict"),
    *("GET /ml/model/status", "GET /automation/status", "GET /automation/predictions"),
    *("GET /metrics", "GET /commands/{number}", "GET /audit"),
    *("POST /engines/{engine}/start", "POST /engines/{engine}/stop"),
    *("POST /engines/{engine}/restart", "POST /ml/kill"),
    *("POST /automation/start", "POST /automation/stop"),
}


class Served(NamedTuple):
    """A registry, and a client of its control service."""

    registry: Registry
    http: httpx.Client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("state")
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(make_fleet(state, healthy=True)) as registry,
        control_service(state) as http,
    ):
        # Its engines never obey.
        patch.setattr(api, "FLAT_SECS", 0.0)
        yield Served(registry, http)


_nowhere = Service(RegistryReader(Path("nowhere")), RequestMetrics())
schema = schemathesis.openapi.from_dict(application(_nowhere).openapi())


def test_the_schema_is_valid_and_has_the_routes_that_were_asked_for(service: Served) -> None:
    assert service.http.get("/openapi.json").json() == schema.raw_schema
    schema.validate()
    labels = {one.ok().label for one in schema.get_all_operations()}
    assert labels == ROUTES
    raw = schema.raw_schema
    for path in raw["paths"].values():
        for operation in path.values():
            assert operation["security"] == [{"HTTPBearer": []}]
            assert {"401", "413", "429", "503"} <= set(operation["responses"])


def fuzz(service: Served, case: schemathesis.Case) -> None:
    supervise(service.registry)
    excluded = {
        # That something is wrong is what it says with 503, in the answer that is documented.
        "/healthz": [not_a_server_error],
        # A switch that is asked for is set, whatever stands beside it.
        "/ml/kill": [negative_data_rejection],
    }.get(case.path, [])
    url = str(service.http.base_url)
    case.call_and_validate(base_url=url, headers=RIGHT, excluded_checks=excluded)


_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=_ALLOWED)
def test_no_request_breaks_the_schema(case: schemathesis.Case, service: Served) -> None:
    fuzz(service, case)


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted(ROUTES))
def test_no_request_of_many_breaks_the_schema(label: str, service: Served) -> None:
    [operation] = [one.ok() for one in schema.get_all_operations() if one.ok().label == label]
    for mode in schemathesis.GenerationMode:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=60, deadline=None, suppress_health_check=_ALLOWED)
        def ask(case: schemathesis.Case) -> None:
            fuzz(service, case)

        ask()
