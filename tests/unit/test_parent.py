"""The letter from parent to child."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.errors import LetterError
from celery_flame_ec2.parent import Parent, flame_parent
from celery_flame_ec2.runner import Limits

LETTER = Parent(owner="proj@h/0", pool="video", backend="ec2", queues=("a", "b"), concurrency=4)


@given(
    pool=st.text(min_size=1),
    queues=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    idle=st.none() | st.floats(min_value=0.1, max_value=1e6),
)
def test_a_letter_is_read_as_it_was_written(pool: str, queues: tuple[str, ...], idle: float | None) -> None:
    letter = Parent(
        owner="o",
        pool=pool,
        backend="local",
        queues=queues,
        concurrency=2,
        limits=Limits(idle_shutdown_after=idle, single_use=True),
        worker_options={"loglevel": "DEBUG"},
        warm=True,
    )
    assert Parent.decode(letter.encode()) == letter


def test_a_letter_is_plain_ascii_without_blanks() -> None:
    assert LETTER.encode().isascii()
    assert not set(LETTER.encode()) & set(" \t\n'\"$`\\%")


def test_a_letter_says_nothing_new_to_old_releases_unless_it_must_and_what_is_new_to_this_one_is_left_out() -> None:
    fields = json.loads(base64.b64decode(LETTER.encode()))
    assert "metadata" not in fields
    assert "end_on_rebalance" not in fields["limits"]
    later = {**fields, "colour": "red", "limits": {**fields["limits"], "mood": 1}}
    assert Parent.decode(encoded(later)) == LETTER


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "text",
    ["%%%", "aGVsbG8=", encoded([1]), encoded({}), encoded({"queues": ["q"], "limits": {"x": 1}}), "é", encoded("q")],
)
def test_what_no_parent_wrote_is_refused_in_one_line_with_a_remedy(text: str) -> None:
    with pytest.raises(LetterError, match=r"FLAME_PARENT is not a letter from a parent.*unset it") as caught:
        Parent.decode(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environ", [{}, {"FLAME_PARENT": ""}])
def test_a_process_without_a_letter_has_no_parent(environ: dict[str, str]) -> None:
    assert flame_parent(environ) is None


def test_a_child_sees_its_parent() -> None:
    assert flame_parent({"FLAME_PARENT": LETTER.encode()}) == LETTER
