"""Is there what the documents name: commands, options, settings, targets, files and parts of the package?"""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import fields

import click
import pytest
from celery.app.defaults import NAMESPACES, flatten
from celery.bin.worker import worker

from celery_flame_ec2.cli import COMMANDS, flame
from celery_flame_ec2.config import Ec2Options, PoolSettings, RootVolume, Settings
from celery_flame_ec2.page.metrics import METRICS
from celery_flame_ec2.testing import plugin

from .pages import ROOT, Block, Span, blocks, spans
from .shell import commands

#: Named beside ours: what is not an option of flame or of `celery worker`, and where it is from.
OTHER_OPTIONS = {
    "--ours": "benchmarks/policy/__main__.py",
    "-dirty": "docs/release.md",  # what git says of a revision
    "--no-sandbox": "docs/guarantees.md",  # Chromium's
    "-p": "docs/testing.md",  # pytest's
}
#: What begins with `flame_` and is neither a setting nor a metric.
REMOTE = {"flame_pause", "flame_resume", "flame_scale"}
PACKAGE = "celery_flame_ec2"
FOLDERS = ("benchmarks", PACKAGE, "docs", "examples", "extras", "tests")
VARIABLE = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)

#: What others call theirs, or is put together from words.
OTHER_WORDS = {
    "after_setup_logger": "a signal of Celery's",
    "aws_region": "FlameEC2's",
    "code_sync": "FLAME's",
    "on_grow_end": "FLAME's",
    "on_grow_start": "FLAME's",
    "on_shrink": "FLAME's",
    "track_resources": "FLAME's",
    "max_tasks": "celery-ecs-autoscaler's",
    "min_tasks": "celery-ecs-autoscaler's",
    "queue_names": "celery-ecs-autoscaler's",
    "close_old_connections": "Django's",
    "select_for_update": "Django's",
    "going_on": "the event of a line that says `going on`",
}
#: It may name what is no more.
HISTORY = "CHANGELOG.md"

SPANS = [span for span in spans() if span.page != HISTORY]
CODE = SPANS + [
    Span(page=block.page, line=block.line, text=command.text)
    for block in blocks("sh", "console")
    for command in commands(block)
]


def test_there_is_something_to_look_at() -> None:
    assert len(CODE) > 1000
    assert lines_of("flame")
    assert lines_of("make")


def words_of(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # `don't`: code, but no command
        return text.split()


def lines_of(program: str) -> list[Span]:
    """Return all code in which a program gets at least one word that is not `...`."""
    found = []
    for span in CODE:
        words = words_of(span.text)
        if program in words[:-1] and (words[0] in {program, "celery"} or VARIABLE.match(words[0])):
            found.append(span)
    return found


# commands


@functools.cache
def tree() -> dict[tuple[str, ...], click.Command]:
    """Return each command of flame by its words."""
    found: dict[tuple[str, ...], click.Command] = {(): flame}
    for name in COMMANDS:
        command = flame.get_command(click.Context(flame), name)
        assert command
        found[(name,)] = command
        found.update({(name, below): sub for below, sub in getattr(command, "commands", {}).items()})
    return found


def options_of(command: click.Command) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}


def read(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words behind `flame` name, and what follows."""
    at: tuple[str, ...] = ()
    while words and isinstance(tree()[at], click.Group) and not words[0].startswith("-"):
        assert (*at, words[0]) in tree(), f"there is no `flame {' '.join((*at, words[0]))}`"
        at = (*at, words.pop(0))
    return tree()[at], words


@pytest.mark.parametrize("span", lines_of("flame"), ids=str)
def test_a_command_of_flame_is_there_with_its_options(span: Span) -> None:
    words = words_of(span.text)
    behind = words[words.index("flame") + 1 :]
    if behind == ["..."] or "inspect" in words:
        return
    command, rest = read(behind)
    given = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert given <= options_of(command)
    once = {name for each in command.params if not getattr(each, "multiple", False) for name in each.opts}
    assert [name for name in given & once if rest.count(name) > 1] == [], "the last one alone would count"
    wanted = [each for each in command.params if isinstance(each, click.Argument)]
    if not given and not any(each.nargs < 0 for each in wanted):
        assert len(rest) <= len(wanted), "it takes fewer words"


def test_each_command_is_documented() -> None:
    named = {id(read(words_of(span.text)[1:])[0]) for span in CODE if re.match(r"flame [a-z]", span.text)}
    assert [" ".join(words) for words, command in tree().items() if command.params and id(command) not in named] == []


def bare_options() -> Iterator[Span]:
    for span in SPANS:
        yield from (
            Span(page=span.page, line=span.line, text=word)
            for word in re.split(r"[\s,/|=]+", span.text)
            if span.text.startswith("-") and re.match(r"--?[a-zA-Z]", word)
        )


@pytest.mark.parametrize("span", list(bare_options()), ids=str)
def test_an_option_is_one_of_some_command(span: Span) -> None:
    known = set(OTHER_OPTIONS).union(options_of(worker), *map(options_of, tree().values()))
    assert span.text in known


def test_other_options_are_named_and_are_where_they_are_said_to_be() -> None:
    named = {span.text for span in bare_options()}
    assert set(OTHER_OPTIONS) <= named
    assert [option for option, path in OTHER_OPTIONS.items() if option not in (ROOT / path).read_text()] == []


# settings


def names_of(kind: type) -> set[str]:
    return {each.name for each in fields(kind)}


def ours() -> set[str]:
    """Return every name that begins with `flame_` and means something."""
    metrics = {metric.name for metric in METRICS}
    fixtures = {name for name in vars(plugin) if name.startswith("flame_")}
    return {f"flame_{name}" for name in names_of(Settings)} | {"flame_ec2"} | metrics | fixtures | REMOTE


def test_a_name_that_begins_with_flame_is_a_setting_a_metric_or_a_fixture() -> None:
    everywhere = [*CODE, *(Span(page=block.page, line=block.line, text=block.text) for block in code_blocks())]
    unknown = [
        f"{span.page}:{span.line}: {name}"
        for span in everywhere
        for name in re.findall(r"(?<![\w-])(?:flame_|CELERY_FLAME_)\w+(?![\w.:-])", span.text)
        if name.removeprefix("CELERY_").lower() not in ours()
    ]
    assert unknown == []


def code_blocks() -> list[Block]:
    return [block for block in blocks() if block.language in {"python", "ini", "yaml", "json", "toml"}]


def known_words() -> set[str]:
    options = set().union(*map(names_of, (Settings, PoolSettings, Ec2Options, RootVolume)))
    return options | {name for name, _ in flatten(NAMESPACES)} | ours() | _words_of_the_package()


def _words_of_the_package() -> set[str]:
    sources = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "extras").rglob("*.*"), *(ROOT / PACKAGE).rglob("*.html")]
    return {word for path in sources for word in re.findall(r"\w+", path.read_text())}


def test_a_name_with_an_underscore_is_a_setting_of_ours_or_of_celery_or_a_word_of_the_package() -> None:
    known = known_words()
    named = [span for span in SPANS if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", span.text)]
    assert named
    assert [str(span) for span in named if span.text not in known and span.text not in OTHER_WORDS] == []


def test_the_words_of_others_are_still_named_and_still_not_ours() -> None:
    named = {span.text for span in SPANS}
    assert [word for word in OTHER_WORDS if word not in named or word in known_words()] == []


# make


@pytest.mark.parametrize("span", lines_of("make"), ids=str)
def test_a_target_is_there_and_its_variables_mean_something(span: Span) -> None:
    words = [word for word in words_of(span.text)[1:] if word != "..."]
    variables = [VARIABLE.fullmatch(word) for word in words]
    targets = [word for word, variable in zip(words, variables, strict=True) if not variable]
    plain = _would_run(*targets)
    for variable in filter(None, variables):
        assert _would_run(*targets, f"{variable[1]}=SENTINEL") != plain, f"{variable[1]} changes nothing"


def _would_run(*words: str) -> str:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def variables_in_comments() -> Iterator[tuple[str, str, Block]]:
    for block in blocks("sh"):
        for line in block.text.splitlines():
            code, _, comment = line.partition("  # ")
            if code.startswith("make "):
                yield from ((code.strip(), name, block) for name in re.findall(r"\b([A-Z]{3,})=", comment))


@pytest.mark.parametrize(("command", "name", "block"), list(variables_in_comments()), ids=str)
def test_a_variable_that_a_comment_names_means_something(command: str, name: str, block: Block) -> None:
    words = [word for word in shlex.split(command)[1:] if not word.startswith(f"{name}=")]
    assert _would_run(*words) != _would_run(*words, f"{name}=SENTINEL")


# files and modules


def paths() -> Iterable[Span]:
    return [span for span in SPANS if re.match(rf"({'|'.join(FOLDERS)})/[\w./-]+$", span.text)]


def test_a_path_of_this_repository_is_there() -> None:
    assert paths()
    assert [str(span) for span in paths() if not (ROOT / span.text).exists()] == []


def test_a_part_of_the_package_can_be_imported() -> None:
    named = [span for span in SPANS if re.match(rf"'?{PACKAGE}[.:]\w", span.text)]
    assert named
    for span in named:
        assert _found(re.sub(r"[('].*", "", span.text.strip("'"))), str(span)


def _found(dotted: str) -> bool:
    module, _, name = dotted.replace(":", ".").rpartition(".")
    return hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    "span", [span for span in CODE if re.match(r"(\S+/)?python3? (-m (tests|benchmarks)|docs/)", span.text)], ids=str
)
def test_a_program_of_this_repository_is_there(span: Span) -> None:
    words = words_of(span.text)
    name = words[2].replace(".", "/") if words[1] == "-m" else words[1]
    assert any((ROOT / path).is_file() for path in (name, f"{name}.py", f"{name}/__main__.py"))
