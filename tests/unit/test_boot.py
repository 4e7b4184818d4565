"""User data: what is in it, what is hidden of it, and how large it may be."""

from __future__ import annotations

import ast
import base64
import email
import gzip
import json
import random
import string
from email.message import Message
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_flame_ec2 import boot
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits

TEMPLATES = resources.files("celery_flame_ec2") / "templates"
LETTER = Parent(owner="shop@redis/0", pool="video", backend="ec2", queues=("video",), concurrency=2)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
references = st.sampled_from([{"from_ssm": "/app/secret"}, {"from_secretsmanager": "secret"}])


def document(letter: Parent = LETTER, **options: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"app": "proj", "s3_bundle_url": "s3://releases/proj/1.tar.gz", **options}
    return boot.document(letter, Ec2Options(**known))


def parts(configuration: dict[str, Any]) -> list[Message]:
    message = email.message_from_bytes(gzip.decompress(boot.user_data(configuration)))
    assert message.defects == []
    return list(message.walk())[1:]


def shipped(configuration: dict[str, Any]) -> str:
    """The bootstrap as cloud-init hands it over."""
    return str(parts(configuration)[1].get_payload(decode=True), "ascii")  # type: ignore[arg-type]


def literal(source: str) -> Any:
    """The document in a shipped bootstrap, read without running anything."""
    (value,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DOCUMENT"
    )
    return json.loads(ast.literal_eval(value))


def test_user_data_is_a_boothook_and_then_the_bootstrap() -> None:
    found = parts(document())
    assert [part.get_content_type() for part in found] == ["text/cloud-boothook"] * 2
    assert [part.get_filename() for part in found] == ["boothook.sh", "bootstrap.py"]
    assert [str(part.get_payload()).splitlines()[0] for part in found] == ["#!/bin/sh", "#!/bin/sh /run/flame/install"]


def test_the_same_settings_give_the_same_bytes() -> None:
    data = boot.user_data(document(env={"A": "1", "B": "2"}))
    assert data == boot.user_data(document(env={"B": "2", "A": "1"}))
    assert data[4:8] == bytes(4)  # gzip's time stamp


def test_the_boothook_is_the_same_for_everybody() -> None:
    one, other = document(), document(app="other", env={"SECRET": "$(poweroff)"}, user="somebody")
    assert parts(one)[0].get_payload() == parts(other)[0].get_payload()


def test_the_boothook_is_shipped_without_its_comments_and_otherwise_whole() -> None:
    first, *lines = (TEMPLATES / "boothook.sh").read_text().splitlines()
    told = [first, *(line for line in lines if line.strip() and line.strip()[0] != "#")]
    assert str(parts(document())[0].get_payload()).rstrip("\n").splitlines() == told


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(names, texts | references, max_size=5))
def test_any_value_survives_the_way_into_the_bootstrap(env: dict[str, Any]) -> None:
    configuration = document(env=env)
    assert literal(shipped(configuration)) == configuration


def test_the_bootstrap_is_shipped_without_its_comments_and_otherwise_whole() -> None:
    source, lean = (TEMPLATES / "bootstrap.py").read_text(), shipped(document())
    assert len(lean) < len(source)
    assert undocumented(lean) == undocumented(source)


def test_nothing_in_the_shipped_bootstrap_is_missing_an_import() -> None:
    imports = [node for node in ast.parse((TEMPLATES / "bootstrap.py").read_text()).body if of_annotations(node)]
    left_out = {alias.name for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {node.id for node in ast.walk(ast.parse(shipped(document()))) if isinstance(node, ast.Name)}
    assert left_out
    assert not left_out & used


def undocumented(source: str) -> str:
    """The code alone: without docstrings and annotations, and without the document."""
    tree = ast.parse(source, feature_version=(3, 9))
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if field == "body" and isinstance(value, list):
                node.body = [plain(line) for line in value if not told_only(line)]  # type: ignore[attr-defined]
        if isinstance(node, (ast.FunctionDef, ast.arg)):
            setattr(node, "returns" if isinstance(node, ast.FunctionDef) else "annotation", None)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DOCUMENT":
            node.value = ast.Constant("")
    return ast.dump(tree)


def of_annotations(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and line.module in {"__future__", "collections.abc", "typing"}


def told_only(line: ast.stmt) -> bool:
    return (
        of_annotations(line)
        or isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
    )


def plain(line: ast.stmt) -> ast.stmt:
    if isinstance(line, ast.AnnAssign) and line.value:
        return ast.Assign(targets=[line.target], value=line.value)
    return line


def test_user_data_above_the_bound_is_refused_with_sizes_and_remedy() -> None:
    long = "".join(random.Random(1).choices(string.printable, k=20_000))
    with pytest.raises(SettingsError) as caught:
        boot.user_data(document(env={"LONG": long}))
    (problem,) = caught.value.problems
    assert "'env'" in problem
    assert "bytes, EC2 takes 16384" in problem
    assert '{"from_ssm": name}' in problem
    assert long not in problem


def test_six_kilobytes_of_env_fit() -> None:
    long = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=6144))
    assert len(boot.user_data(document(env={"LONG": long}))) <= boot.MAX_USER_DATA


def test_masked_shows_names_and_references_and_no_value() -> None:
    env = {"PLAIN": "secret", "EMPTY": "", "SSM": {"from_ssm": "/a"}, "SM": {"from_secretsmanager": "b"}}
    configuration = document(env=env)
    hidden = boot.masked(configuration)
    assert hidden["env"] == {**env, "PLAIN": "***", "EMPTY": "***"}
    assert "secret" not in boot.multipart(hidden).replace("secretsmanager", "").partition("DOCUMENT")[2].split("\n")[0]
    assert configuration["env"]["PLAIN"] == "secret"


def test_the_letter_travels_as_it_was_written() -> None:
    text = json.dumps(document()["letter"])
    assert Parent.decode(base64.b64encode(text.encode()).decode()) == LETTER


def test_each_later_means_of_ending_waits_for_the_earlier_one() -> None:
    limits = Limits(boot_timeout=90.5, shutdown_timeout=45.0, max_lifetime=3600.0)
    units = document(Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=1, limits=limits))["units"]
    seconds = {
        (unit, key): int(value)
        for unit, text in units.items()
        for key, _, value in (line.partition("=") for line in text.splitlines())
        if value.isdigit()
    }
    stop = seconds["flame-release.service", "TimeoutStopSec"]
    life = seconds["flame-release.service", "RuntimeMaxSec"]
    assert seconds["flame-hello.timer", "OnBootSec"] == 91
    assert stop > limits.shutdown_timeout
    assert life > limits.max_lifetime + limits.shutdown_timeout
    assert seconds["flame-age.timer", "OnBootSec"] > 91 + life + stop - 1
    assert seconds["poweroff.target.d/flame.conf", "JobTimeoutSec"] > stop


def test_the_release_is_started_and_ended_as_its_unit_says() -> None:
    lines = document(user="somebody")["units"]["flame-release.service"].splitlines()
    assert 'ExecStart=:"/srv/proj/release/bin/proj" "start"' in lines
    assert "User=somebody" in lines
    assert {"KillMode=mixed", "Restart=no", "SuccessAction=poweroff", "FailureAction=poweroff"} <= set(lines)
    assert not [line for line in lines if "%" in line or "{" in line]
    assert "[Install]" not in lines
    assert {"OOMPolicy=continue", "OOMScoreAdjust=-500"} <= set(lines)  # a task that eats the memory does not end it


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        ("", None),
        ("[  OK  ] Reached target\nflame: metadata read in 0.1 s\n", None),
        ("[ 12.3] flame[92]: flame: boot failed: fetch: no such bundle s3://b/k\r\n", "fetch: no such bundle s3://b/k"),
        ("x\nflame: boot failed: start: first\nflame: boot failed: boothook: second\n", "start: first"),
    ],
)
def test_a_failure_is_found_on_the_console(console: str, expected: str | None) -> None:
    assert boot.failure(console) == expected


def test_the_boothook_says_failures_as_the_parent_reads_them() -> None:
    assert f"printf '{boot.FAILURE_PREFIX}%s: %s" in (TEMPLATES / "boothook.sh").read_text()
