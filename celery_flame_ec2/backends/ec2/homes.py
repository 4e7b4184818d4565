"""Where does each instance live, and which did no listing show yet? Pure: the clock is passed in, in seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .clients import Place

#: Seconds: listings lag behind launches, "Eventual consistency in the Amazon EC2 API".
VISIBLE_WITHIN = 60.0
#: Seconds an instance that is listed no more stays known: its last words are asked for then.
KEPT = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where an instance lives; `at` is its launch, or when it was last listed."""

    place: Place
    at: float
    listed: bool = False


class Homes:
    """The instances this parent launched or saw, by id."""

    def __init__(self) -> None:
        self._homes: dict[str, Home] = {}

    def launched(self, ids: Iterable[str], place: Place, now: float) -> None:
        """Take in what was launched here."""
        self._homes |= {name: Home(place=place, at=now) for name in ids if name not in self._homes}

    def listed(self, ids: Iterable[str], place: Place, now: float) -> None:
        """Take in the listing of a place; what is gone for long is forgotten."""
        self._homes |= {name: Home(place=place, at=now, listed=True) for name in ids}
        self._homes = {name: home for name, home in self._homes.items() if now - home.at < KEPT}

    def of(self, name: str) -> Place | None:
        """Return where an instance lives, if that is known."""
        home = self._homes.get(name)
        return home.place if home else None

    def unlisted(self, place: Place, now: float) -> Collection[str]:
        """Return the instances launched in a place a short while ago that no listing showed."""
        return sorted(
            name
            for name, home in self._homes.items()
            if home.place == place and not home.listed and now - home.at < VISIBLE_WITHIN
        )
