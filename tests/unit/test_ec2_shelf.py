"""The shelf of releases: who uses which, and which may go."""

from __future__ import annotations

import pytest

from celery_flame_ec2.backends.ec2.shelf import Shelved, Uses, newest_first, to_prune
from celery_flame_ec2.edition import Edition, tag

FOLDER = "s3://releases/proj/"


def shelved(name: str, at: float, app: str | None = "proj", version: str | None = None) -> Shelved:
    edition = Edition(url=FOLDER + name, version=version, facts={"name": app} if app else {})
    return Shelved(edition=edition, size=1, at=at)


FIVE = [shelved(f"{number}.tar.gz", at=number) for number in (3, 1, 5, 2, 4)]


def names(found: object) -> list[str]:
    return [each.url.removeprefix(FOLDER) for each in found]  # type: ignore[attr-defined]


def test_the_newest_come_first() -> None:
    assert names(newest_first(FIVE)) == [f"{number}.tar.gz" for number in (5, 4, 3, 2, 1)]


def test_the_newest_stay_and_the_others_go() -> None:
    assert names(to_prune(FIVE, Uses(), app="proj", keep=2)) == ["3.tar.gz", "2.tar.gz", "1.tar.gz"]
    assert not to_prune(FIVE, Uses(), app="proj", keep=5)


@pytest.mark.parametrize("version", [None, "v1", "v2"])
def test_one_that_is_in_use_stays_whatever_version_its_user_was_told(version: str | None) -> None:
    uses = Uses(by={tag(f"{FOLDER}1.tar.gz", version): ("i-1",)})
    there = [shelved("1.tar.gz", at=1, version="v2"), shelved("2.tar.gz", at=2)]
    assert names(to_prune(there, uses, app="proj", keep=0)) == ["2.tar.gz"]
    assert uses.of(there[0]) == ("i-1",)


def test_what_was_not_pushed_or_is_of_another_app_stays() -> None:
    there = [shelved("1.tar.gz", at=1, app=None), shelved("2.tar.gz", at=2, app="other"), shelved("3.tar.gz", at=3)]
    assert names(to_prune(there, Uses(), app="proj", keep=0)) == ["3.tar.gz"]


def test_the_newest_are_counted_of_this_app_alone() -> None:
    there = [shelved("1.tar.gz", at=1), shelved("2.tar.gz", at=2, app="other")]
    assert not to_prune(there, Uses(), app="proj", keep=1)


def test_a_long_url_is_known_by_its_hash_and_one_that_is_known_of_nothing_leaves_it_open() -> None:
    long = shelved("x" * 300 + ".tar.gz", at=1, version="v1")
    own, other = Uses(by={long.edition.tag: ("i-1",)}), Uses(by={tag("s3://b/" + "y" * 300, None): ("i-2",)})
    assert own.of(long) == ("i-1",)
    assert own.untold([long]) == ()
    assert other.untold([long]) == ("i-2: which release it runs cannot be told from its tag",)
    assert Uses(unknown=("EC2 is silent",)).untold([long]) == ("EC2 is silent",)
