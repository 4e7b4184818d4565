"""Does each command do what the documents say, typed as they print it, one after the other as they stand on a page?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.box.cloud import Cloud
from tests.conftest import servers_or_skip
from tests.servers import RedisServer

from .pages import ROOT, blocks
from .place import Place, named
from .reader import SHOWN, Reader
from .shell import Command, commands
from .test_names import VARIABLE, tree

#: Programs that are not run here, and what is asked of such a command instead.
NOT_RUN = {
    ".venv/bin/pytest": "the file is there, and reads the variable",
    "/srv/proj/release/bin/proj": "tests/integration/test_release.py and tests/box run it",
    "aws": "tests/integration/test_network.py deploys the template; the rest is AWS's own",
    "make": "the target is there, and each variable changes what it would do: test_names.py",
    "pip": "the extras are those of this package, a file of requirements is there",
    "pytest": "tests/unit/test_testing_docs.py runs it in examples/proj",
    "python3": "it makes a virtual environment: tests/packaging does",
}
NAME = "celery-flame-ec2"


def program(command: Command) -> str:
    return next(word for word in command.words if not VARIABLE.match(word))


ALL = [command for block in blocks("sh", "console") for command in commands(block)]
SKIPPED = [command for command in ALL if program(command) in NOT_RUN]
RUN = [command for command in ALL if program(command) not in NOT_RUN]
#: The one that takes longest first.
PAGES = sorted({command.block.page for command in RUN}, key=lambda page: (page not in SHOWN, page))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    with Cloud() as opened:
        yield opened


@pytest.fixture(scope="session")
def real(cloud: Cloud) -> dict[str, str]:
    return named(cloud)


@pytest.fixture
def place(tmp_path: Path, cloud: Cloud, real: dict[str, str]) -> Iterator[Place]:
    with servers_or_skip():
        server = RedisServer()
    with server as redis, Place(tmp_path / "home", redis, cloud, real) as made:
        yield made


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says(page: str, place: Place) -> None:
    Reader(page, place).read(skipped={str(command) for command in SKIPPED})


def test_pages_whose_output_is_looked_at_have_commands() -> None:
    assert set(PAGES) >= SHOWN


def test_each_command_of_flame_is_driven() -> None:
    driven = {tuple(_flame_words(command)) for command in RUN}
    leaves = {words for words, command in tree().items() if not hasattr(command, "commands")}
    assert leaves - driven == {("child",)}, "a runner runs child, and nobody else"


def _flame_words(command: Command) -> list[str]:
    words = command.words
    behind = words[words.index("flame") + 1 :] if "flame" in words and "inspect" not in words else []
    return behind[:2] if tuple(behind[:2]) in tree() else behind[:1]


# what is not run


def test_what_is_not_run_is_still_there() -> None:
    assert set(NOT_RUN) == {program(command) for command in SKIPPED}


@pytest.mark.parametrize("command", [each for each in SKIPPED if program(each) == "pip"], ids=str)
def test_what_is_to_be_installed_is_there(command: Command) -> None:
    words = command.words[2:]
    if words[0] == "-r":
        assert list((ROOT / "examples").glob(f"*/{words[1]}"))
        return
    word = words[0].replace(f"../{NAME}", NAME).replace(".[", f"{NAME}[")
    wanted = Requirement(word)
    assert wanted.name == NAME
    assert wanted.extras <= set(metadata(NAME).get_all("Provides-Extra") or ())


@pytest.mark.parametrize("command", [each for each in SKIPPED if program(each) == ".venv/bin/pytest"], ids=str)
def test_a_path_of_tests_is_there_and_reads_its_variable(command: Command) -> None:
    path = ROOT / command.words[-1]
    assert path.exists()
    for variable in filter(None, map(VARIABLE.match, command.words)):
        assert f'"{variable[1]}"' in path.read_text()
