"""Who may look at the status page."""

from __future__ import annotations

import base64

import pytest

from celery_flame_ec2.page.door import Door

TOKEN = "correct horse battery".replace(" ", "-")
OPEN, LOCKED = Door(token=None), Door(token=TOKEN)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("host", ["127.0.0.1:9809", "localhost:9809", "LOCALHOST", "[::1]:9809"])
def test_without_a_token_this_machine_comes_in_by_its_own_name(host: str) -> None:
    assert OPEN.refuses(host=host, authorization="") is None


@pytest.mark.parametrize(
    "host", ["", "evil.example:9809", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"]
)
def test_without_a_token_another_name_for_this_machine_stays_out(host: str) -> None:
    refusal = OPEN.refuses(host=host, authorization="")
    assert refusal is not None
    assert refusal.status == 421


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(f"any:{TOKEN}"), basic(f":{TOKEN}")])
def test_who_shows_the_token_comes_in_under_any_name(shown: str) -> None:
    assert LOCKED.refuses(host="status.example", authorization=shown) is None


@pytest.mark.parametrize(
    "shown",
    [
        "", TOKEN, f"Digest {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe9",
        basic(TOKEN), basic(f"{TOKEN}:"), "Basic", "Basic !", "Basic \xe9", basic("any:\xe9"),
    ],
)  # fmt: skip
def test_who_does_not_show_it_is_asked_for_it_even_on_this_machine(shown: str) -> None:
    refusal = LOCKED.refuses(host="127.0.0.1:9809", authorization=shown)
    assert refusal is not None
    assert refusal.status == 401
    assert refusal.challenge.startswith("Basic ")
    assert TOKEN not in refusal.why + refusal.challenge
