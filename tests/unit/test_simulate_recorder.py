"""Does a recording hold each run of our tasks once, by whatever events there are?"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_flame_ec2.simulate import Task, read_trace
from celery_flame_ec2.simulate.recorder import EVENTS, Recorder

#: The queue of a task by its name, as an app's routes tell it.
ROUTES = {"proj.encode": "video", "proj.send": "mail"}
SENT = {"queue": "video", "name": "proj.send"}
NAMED = {"name": "proj.encode", "args": "('secret',)", "kwargs": "{}"}

Told = Callable[..., Recorder]


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def told(file: io.StringIO) -> Told:
    """Tell a new recorder events: kind, moment, and fields; the task is 'a' unless a field says otherwise."""

    def tell(*events: tuple[str, float, dict[str, Any]], most_open: int = 10) -> Recorder:
        recorder = Recorder(file, {"video"}, lambda name: ROUTES.get(name, "celery"), most_open=most_open)
        for kind, at, fields in events:
            recorder.hear({"type": f"task-{kind}", "uuid": "a", "timestamp": at, **fields})
        return recorder

    return tell


def rows(file: io.StringIO) -> list[str]:
    header, *lines = file.getvalue().splitlines()
    assert header == "arrival,runtime,queue"
    return lines


def test_a_task_arrives_when_it_was_sent_and_runs_as_its_worker_says(told: Told, file: io.StringIO) -> None:
    recorder = told(
        ("sent", 100, SENT), ("received", 104, NAMED), ("started", 105, {}), ("succeeded", 107, {"runtime": 1.5})
    )
    assert rows(file) == ["100.000,1.5000,video"]
    assert (recorder.counts.recorded, recorder.counts.unknown, recorder.open) == (1, 0, 0)


def test_without_a_word_of_the_client_it_arrives_when_received_and_its_route_tells_the_queue(
    told: Told, file: io.StringIO
) -> None:
    told(("received", 104, NAMED), ("started", 105, {}), ("succeeded", 107, {"runtime": 2}))
    assert rows(file) == ["104.000,2.0000,video"]


def test_tasks_of_other_queues_are_nobodys_business(told: Told, file: io.StringIO) -> None:
    recorder = told(
        ("sent", 100, {**SENT, "queue": "mail"}), ("received", 104, NAMED), ("succeeded", 107, {"runtime": 2}),
        ("received", 104, {"name": "proj.send", "uuid": "b"}), ("failed", 107, {"uuid": "b"}),
    )  # fmt: skip
    assert rows(file) == []
    assert (recorder.counts.recorded, recorder.counts.unknown, recorder.counts.dropped, recorder.open) == (0, 0, 0, 0)


def test_a_task_that_fails_ran_from_its_start(told: Told, file: io.StringIO) -> None:
    told(("sent", 100, SENT), ("started", 105, {}), ("failed", 107.25, {"exception": "KeyError('secret')"}))
    assert rows(file) == ["100.000,2.2500,video"]


def test_each_try_of_a_task_is_a_task(told: Told, file: io.StringIO) -> None:
    recorder = told(
        ("sent", 100, SENT), ("received", 100, NAMED), ("started", 101, {}),
        ("sent", 103, SENT), ("retried", 103.1, {}),
        ("received", 104, NAMED), ("started", 105, {}), ("succeeded", 109, {"runtime": 4}),
    )  # fmt: skip
    assert rows(file) == ["100.000,2.0000,video", "103.000,4.0000,video"]
    assert recorder.counts.unknown == 0


def test_each_try_is_a_task_also_where_clients_do_not_tell(told: Told, file: io.StringIO) -> None:
    told(
        ("received", 100, NAMED), ("started", 101, {}), ("retried", 103, {}),
        ("received", 104, NAMED), ("started", 105, {}), ("succeeded", 109, {"runtime": 4}),
    )  # fmt: skip
    assert rows(file) == ["100.000,2.0000,video", "104.000,4.0000,video"]


def test_a_client_that_is_heard_late_is_still_believed(told: Told, file: io.StringIO) -> None:
    told(("received", 100.2, NAMED), ("started", 100.3, {}), ("sent", 100, SENT), ("succeeded", 101, {"runtime": 0.5}))
    assert rows(file) == ["100.000,0.5000,video"]


@pytest.mark.parametrize("eta", ["1970-01-01T00:05:00+00:00", "1970-01-01T00:05:00", "1970-01-01T02:05:00+02:00"])
def test_a_task_for_later_arrives_when_it_may_run(eta: str, told: Told, file: io.StringIO) -> None:
    told(("sent", 100, {**SENT, "eta": eta}), ("started", 300, {}), ("succeeded", 301, {"runtime": 1}))
    assert rows(file) == ["300.000,1.0000,video"]


def test_what_is_left_out_is_counted(told: Told, file: io.StringIO) -> None:
    recorder = told(
        ("succeeded", 99, {"uuid": "began before", "runtime": 3}),
        ("sent", 100, {**SENT, "uuid": "revoked"}), ("revoked", 101, {"uuid": "revoked"}),
        ("sent", 100, {**SENT, "uuid": "no start"}), ("failed", 101, {"uuid": "no start"}),
        ("sent", 100, {**SENT, "uuid": "lost"}), ("received", 100, {**NAMED, "uuid": "lost"}),
        ("started", 101, {"uuid": "lost"}), ("received", 900, {**NAMED, "uuid": "lost"}),
    )  # fmt: skip
    assert rows(file) == []
    assert (recorder.counts.unknown, recorder.counts.dropped, recorder.open) == (3, 1, 1)


@pytest.mark.parametrize("runtime", [None, -1, float("nan"), float("inf"), "1", [1]])
def test_a_runtime_that_is_none_is_not_believed(runtime: Any, told: Told, file: io.StringIO) -> None:
    told(("sent", 100, SENT), ("started", 105, {}), ("succeeded", 107, {"runtime": runtime}))
    assert rows(file) == ["100.000,2.0000,video"]


def test_memory_is_bounded_and_the_oldest_is_forgotten(told: Told, file: io.StringIO) -> None:
    recorder = told(*[("sent", 100 + n, {**SENT, "uuid": str(n)}) for n in range(30)], most_open=10)
    assert (recorder.open, recorder.counts.forgotten) == (10, 20)
    recorder.hear({"type": "task-succeeded", "uuid": "29", "timestamp": 200, "runtime": 1})
    recorder.hear({"type": "task-succeeded", "uuid": "3", "timestamp": 200, "runtime": 1})
    assert rows(file) == ["129.000,1.0000,video"]
    assert recorder.counts.unknown == 1


def test_simulate_reads_what_was_recorded(told: Told, file: io.StringIO, tmp_path: Path) -> None:
    told(
        ("sent", 102, {**SENT, "uuid": "b"}), ("sent", 100, SENT), ("started", 105, {}),
        ("succeeded", 106, {"runtime": 1, "uuid": "b"}), ("succeeded", 107, {"runtime": 2}),
    )  # fmt: skip
    trace = tmp_path / "recorded.csv"
    trace.write_text(file.getvalue())
    assert read_trace(trace, queues={"video"}) == [Task(0.0, 2.0), Task(2.0, 1.0)]


VALUES = st.one_of(st.none(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=1))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(EVENTS), "uuid": st.sampled_from("ab"), "timestamp": VALUES},
            optional={"runtime": VALUES, "queue": st.sampled_from(["video", "mail"]), "eta": VALUES, "name": VALUES},
        ),
        max_size=12,
    )
)
def test_whatever_events_say_a_line_holds_two_times_and_our_queue(events: list[dict[str, Any]]) -> None:
    file = io.StringIO()
    recorder = Recorder(file, {"video"}, lambda _: "video", most_open=1)
    for event in events:
        recorder.hear(event)
    for line in rows(file):
        arrival, runtime, queue = line.split(",")
        assert abs(float(arrival)) < float("inf")
        assert 0 <= float(runtime) < float("inf")
        assert queue == "video"
    assert len(rows(file)) == recorder.counts.recorded
