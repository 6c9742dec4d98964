"""Who may come in: token, origin, rates and sizes, before any route is reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from catalog.errors import ConfigError
from live.api_door import (
    TOKEN_VARIABLE,
    Buckets,
    Door,
    DoorConfig,
    Rate,
    RequestMetrics,
    is_loopback,
)
from tests.live.test_metrics import parse, sample

TOKEN = "correct-horse-battery-staple"
RIGHT = {"authorization": f"Bearer {TOKEN}"}


class Behind:
    """The service behind the door: answers 200, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


class House:
    """A door with something behind it, and someone who knocks."""

    def __init__(self, **config: Any) -> None:
        self.behind, self.metrics = Behind(), RequestMetrics()
        self.refused: list[tuple[str, str, str]] = []
        self.door = Door(
            self.behind, DoorConfig(**config), self.metrics, lambda *one: self.refused.append(one)
        )

    def ask(
        self,
        path: str = "/engines",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        client: str = "127.0.0.1",
        content: Any = None,
        host: str = "127.0.0.1:8710",
    ) -> httpx.Response:
        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self.door, client=(client, 5))
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
                return await http.request(method, path, headers=headers, content=content)

        return asyncio.run(one())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN.upper()}"},
        {"authorization": "Bearer \xe9"},
        {"cookie": f"token={TOKEN}"},
    ],
)
def test_without_the_token_nothing_is_reached(headers: dict[str, str]) -> None:
    house = House(token=TOKEN)
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in ("/engines", "/metrics", "/openapi.json", "/nothing"):
        answer = house.ask(path, headers=encoded)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
    assert house.behind.asked == []


def test_two_authorizations_are_none() -> None:
    house = House(token=TOKEN)
    answer = house.ask(headers=[("authorization", f"Bearer {TOKEN}")] * 2)  # type: ignore[arg-type]
    assert answer.status_code == 401


def test_with_the_token_everything_is_reached() -> None:
    house = House(token=TOKEN)
    assert house.ask(headers=RIGHT, host="example.com").status_code == 200
    assert house.ask(headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
    assert house.refused == []


def test_refused_commands_are_told_and_refused_looks_are_not() -> None:
    house = House(token=TOKEN)
    house.ask("/engines")
    house.ask("/ml/kill?enabled=false", "POST", client="10.0.0.9")
    assert [one[:2] for one in house.refused] == [("10.0.0.9", "POST /ml/kill")]


def test_guesses_are_slowed_down_for_one_client_only() -> None:
    house = House(token=TOKEN, refusals=Rate(0.5, 3.0))
    codes = [house.ask(client="10.0.0.9").status_code for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    assert int(house.ask(client="10.0.0.9").headers["retry-after"]) == 2
    assert house.ask(client="10.0.0.8").status_code == 401
    # Who has the token is not kept out by who guesses from the same address.
    assert house.ask(client="10.0.0.9", headers=RIGHT).status_code == 200


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1:8710", {}, 200),
        ("localhost:8710", {}, 200),
        ("[::1]:8710", {}, 200),
        ("127.0.0.1:8710", {"origin": "http://localhost:3000"}, 200),
        ("evil.example:8710", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("127.0.0.1:8710", {"origin": "https://evil.example"}, 403),
        ("127.0.0.1:8710", {"origin": "null"}, 403),
        ("127.0.0.1:8710", {"origin": "http://[bad"}, 403),
        ("127.0.0.1:8710", {"sec-fetch-site": "cross-site"}, 403),
        ("127.0.0.1:8710", {"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_without_a_token_no_web_page_comes_in(
    host: str, headers: dict[str, str], status: int
) -> None:
    house = House()
    assert house.ask("/ml/kill?enabled=false", "POST", headers, host=host).status_code == status


def test_a_client_may_ask_so_often_and_then_waits() -> None:
    house = House(token=TOKEN, requests=Rate(1.0, 4.0))
    codes = [house.ask(headers=RIGHT).status_code for _ in range(6)]
    assert codes == [200, 200, 200, 200, 429, 429]
    assert house.ask(headers=RIGHT, client="10.0.0.9").status_code == 200
    assert house.ask("/ml/kill?enabled=false", "POST", RIGHT).status_code == 429
    for query in ("enabled=true", "enabled=1", "why=x&enabled=True"):
        assert house.ask(f"/ml/kill?{query}", "POST", RIGHT).status_code == 200


def test_buckets_fill_again_and_forget_old_clients() -> None:
    now = 0.0
    buckets = Buckets(Rate(2.0, 2.0), lambda: now)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    now = 0.4
    assert buckets.take("a") == pytest.approx(0.1)
    now = 0.5
    assert buckets.take("a") == 0.0
    for number in range(5_000):
        buckets.take(str(number))
    assert len(buckets._left) == 1_024


def test_bodies_are_limited_and_go_nowhere() -> None:
    house = House(token=TOKEN, most_body_bytes=100)
    assert house.ask(method="POST", headers=RIGHT, content=b"x" * 100).status_code == 200
    answer = house.ask(method="POST", headers=RIGHT, content=b"x" * 101)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert house.behind.bodies == [b""]


def test_a_body_of_unknown_length_is_limited() -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 50

    house = House(token=TOKEN, most_body_bytes=100)
    assert house.ask(method="POST", headers=RIGHT, content=chunks(2)).status_code == 200
    assert house.ask(method="POST", headers=RIGHT, content=chunks(3)).status_code == 413


def test_a_body_that_does_not_end_is_given_up() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    house = House(token=TOKEN, body_secs=0.05)
    assert house.ask(method="POST", headers=RIGHT, content=never()).status_code == 408


def test_nothing_may_be_kept_by_the_way() -> None:
    answer = House(token=TOKEN).ask(headers=RIGHT)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_requests_are_counted() -> None:
    house = House(token=TOKEN)
    house.ask(headers=RIGHT)
    house.ask(method="BREW")
    from prometheus_client import generate_latest

    found = parse(generate_latest(house.metrics.registry))
    name = "levibot_api_requests_total"
    assert sample(found, name, method="GET", route="none", status="200") == 1.0
    assert sample(found, name, method="other", route="none", status="401") == 1.0


@pytest.mark.parametrize(
    "token", ["short", "x" * 15, "with a blank in it", "ünïcödé-ünïcödé-ünï", ""]
)
def test_a_weak_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE) as refused:
        DoorConfig(token=token)
    assert not token or token not in str(refused.value)


def test_a_configuration_does_not_show_its_token() -> None:
    assert TOKEN not in repr(DoorConfig(token=TOKEN))


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_hosts_of_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own
