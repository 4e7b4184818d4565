"""Are recorded loads read as they were recorded, and bad ones refused by line?"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_flame_ec2.errors import TraceError
from celery_flame_ec2.simulate import Task, read_trace

SWF = """\
; Version: 2.2
;
    1      100     -1   1451  128     -1    -1   -1     -1    -1 -1   1   1  -1 -1 -1 -1 -1
    2     1460     -1      0  128     -1    -1   -1     -1    -1 -1   1   1  -1 -1 -1 -1 -1
    3     1460     -1     -1  128     -1    -1   -1     -1    -1 -1   1   1  -1 -1 -1 -1 -1

    4     5198     -1   10.5  128     -1    -1   -1     -1    -1 -1   1   1  -1 -1 -1 -1 -1
"""
CSV = "arrival,runtime\n10,2\n5.5,0\n"
BAD = {
    "nothing": ("", "line 1: there is nothing in it"),
    "only blanks": ("\n\n", "line 2: there is nothing in it"),
    "only comments": ("; a\n; b\n", "no task in it"),
    "only jobs that never ran": ("1 0 -1 -1\n", "no task in it"),
    "a header alone": ("arrival,runtime\n", "no task in it"),
    "a job cut short": (SWF + "5 6 7\n", "line 8: neither a job of SWF (4 fields or more) nor a CSV header: '5 6 7'"),
    "a job without numbers": ("1 soon -1 5\n", "line 1: field 2 (submit) must be a number of seconds, got 'soon'"),
    "a job without an end": ("1 0 -1 nan\n", "line 1: field 4 (run) must be a number of seconds, got 'nan'"),
    "CSV without a header": ("5,6\n", "line 1: neither a job of SWF (4 fields or more) nor a CSV header: '5,6'"),
    "another header": ("time,seconds\n1,2\n", "line 1: neither a job of SWF nor a CSV header with 'arrival'"),
    "a header twice": ("arrival,runtime,runtime\n", "line 1: neither a job of SWF nor a CSV header with 'runtime'"),
    "a row cut short": (CSV + "7\n", "line 4: 1 fields where the header has 2: '7'"),
    "no runtime": (CSV + "7,\n", "line 4: runtime must be a number of seconds, got ''"),
    "a negative runtime": (CSV + "7,-1\n", "line 4: runtime must be 0 or more, got -1"),
    "an endless runtime": (CSV + "7,inf\n", "line 4: runtime must be a number of seconds, got 'inf'"),
    "no moment": (
        CSV + "noon,1\n",
        "line 4: arrival (or an ISO 8601 timestamp) must be a number of seconds, got 'noon'",
    ),
    "no such day": ("arrival,runtime\n2026-02-30T00:00:00,1\n", "line 2: arrival is no timestamp of ISO 8601"),
    "seconds and timestamps": (CSV + "2026-01-01,1\n", "line 4: an arrival in seconds and another as a timestamp"),
    "an open quote": (CSV + '"7,1\n', "line 4: not CSV, "),
    "a line without end": (CSV + "7" * 20_000, "line 4: a line of 10000 characters or more"),
    "a picture": ("\ud800\udcff".encode("utf-16", "surrogatepass").decode("latin-1"), "line 1: "),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def read(file: Path, text: str) -> list[Task]:
    file.write_text(text)
    return read_trace(file)


def test_a_workload_in_swf_is_read_without_what_never_ran(file: Path) -> None:
    assert read(file, SWF) == [Task(0.0, 1451.0), Task(5098.0, 10.5)]


def test_csv_is_read_in_the_order_of_arrivals_the_first_at_0(file: Path) -> None:
    assert read(file, CSV) == [Task(0.0, 0.0), Task(4.5, 2.0)]


def test_tasks_that_arrive_together_stay_in_the_order_of_the_file(file: Path) -> None:
    assert [task.runtime for task in read(file, "arrival,runtime\n5,9\n5,1\n5,4\n1,7\n")] == [7, 9, 1, 4]


def test_columns_may_stand_in_any_order_beside_others(file: Path) -> None:
    assert read(file, 'Worker, Runtime ,ARRIVAL\n"a,b",2,10\n\nc,3,12\n') == [Task(0.0, 2.0), Task(2.0, 3.0)]


def test_timestamps_are_utc_where_they_name_no_offset(file: Path) -> None:
    rows = ["2026-03-01T12:00:00Z,1", "2026-03-01 12:00:01.5,2", "2026-03-01T14:00:02+02:00,3"]
    tasks = read(file, "\n".join(["arrival,runtime", *rows]))
    assert tasks == [Task(0.0, 1.0), Task(1.5, 2.0), Task(2.0, 3.0)]


@pytest.mark.parametrize("text", ["2026-13-01", "9999-12-31T24:00:00", "2026-03-01T12:00:00+25:00", "2026-03-01 noon"])
def test_a_timestamp_that_is_none_is_named(text: str, file: Path) -> None:
    with pytest.raises(TraceError, match="line 2: arrival is no timestamp of ISO 8601"):
        read(file, f"arrival,runtime\n{text},1\n")


def test_line_ends_and_byte_order_marks_of_other_systems_are_no_matter(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfarrival,runtime\r\n1,2\r\n")
    assert read_trace(file) == [Task(0.0, 2.0)]


@pytest.mark.parametrize("text", [SWF, CSV], ids=["swf", "csv"])
def test_a_packed_file_is_told_by_content_whatever_its_name(text: str, file: Path) -> None:
    plain = read(file, text)
    file.write_bytes(gzip.compress(text.encode()))
    assert read_trace(file) == plain
    renamed = file.rename(file.with_suffix(".swf"))
    assert read_trace(renamed) == plain


def test_tasks_of_other_queues_are_left_out_where_the_file_names_queues(file: Path) -> None:
    text = "arrival,runtime,queue\n1,2,video\n2,3,mail\n3,4,audio\n"
    assert len(read(file, text)) == 3
    assert read_trace(file, queues={"mail", "audio"}) == [Task(0.0, 3.0), Task(1.0, 4.0)]
    with pytest.raises(TraceError, match=r"no task in it of queue celery, only of 'audio', 'mail', 'video'$"):
        read_trace(file, queues={"celery"})


def test_a_file_without_any_task_is_not_blamed_on_the_queue(file: Path) -> None:
    file.write_text("arrival,runtime,queue\n")
    with pytest.raises(TraceError, match=r"no task in it$"):
        read_trace(file, queues={"celery"})


def test_a_job_whose_submit_time_is_not_known_is_left_out(file: Path) -> None:
    assert read(file, "1 -1 0 60\n2 10 -1 5\n3 30 -1 7 -1\n") == [Task(0.0, 5.0), Task(20.0, 7.0)]


def test_a_file_with_more_tasks_than_memory_is_given_to_is_refused(file: Path) -> None:
    file.write_text("arrival,runtime\n" + "1,2\n" * 4)
    assert len(read_trace(file, most=4)) == 4
    with pytest.raises(TraceError, match="line 5: more than 3 tasks"):
        read_trace(file, most=3)


def test_queues_are_no_matter_where_the_file_names_none(file: Path) -> None:
    assert len(read(file, CSV)) == 2
    assert len(read_trace(file, queues={"celery"})) == 2


@pytest.mark.parametrize(("text", "told"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_refused_with_file_line_and_reason(text: str, told: str, file: Path) -> None:
    with pytest.raises(TraceError) as refused:
        read(file, text)
    assert str(refused.value).startswith(str(file))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(file)) + 200


def test_a_packed_file_that_is_cut_short_or_spoilt_is_refused(file: Path) -> None:
    packed = gzip.compress((CSV + "7,1.25\n" * 1000).encode())
    for spoilt in (packed[:-20], packed[:-8] + b"\0" * 8, packed[:2]):
        file.write_bytes(spoilt)
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(file)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: cannot be read: .*No such file"):
        read_trace(tmp_path / "nowhere.csv")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"; a\n", b"arrival,runtime\n", b"arrival,runtime,queue\n1,2,q\n", b"1 2 3 4 5\n"]),
    rest=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='0123456789.,;-+eEinfaT:Z"_ \n\r\t\x00', max_size=200).map(str.encode),
        st.lists(st.tuples(st.datetimes().map(str), st.floats().map(str)).map(",".join), max_size=5).map(
            lambda lines: "\n".join(lines).encode()
        ),
    ),
    packed=st.booleans(),
)
def test_whatever_stands_in_a_file_it_is_read_or_refused(start: bytes, rest: bytes, packed: bool, file: Path) -> None:
    file.write_bytes(gzip.compress(start + rest) if packed else start + rest)
    try:
        tasks = read_trace(file)
    except TraceError:
        return
    assert tasks[0].arrival == 0
    assert tasks == sorted(tasks, key=lambda task: task.arrival)
    assert all(task.runtime >= 0 for task in tasks)
