"""What did EC2 refuse lately, and until when is it not asked for again? Pure: the clock is passed in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .refusals import Meaning, Refusal

FIRST = 180.0  #: seconds in which a refusal is remembered
LONGEST = 900.0  #: seconds, after it came again and again
#: Types share a quota by the letters they begin with, per market and region: AWS's "Amazon EC2 instance type quotas".
FAMILIES = (
    (frozenset({"a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"}), "Standard"),
    (frozenset({"g", "gr", "vt"}), "G and VT"),
    (frozenset({"u"}), "High Memory"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What one rung of a ladder asks for. None: as the launch template says, or as EC2 does by itself.

    `zone` is the subnet's own id where nobody may tell its zone.
    """

    market: str | None
    instance_type: str | None
    zone: str | None
    subnet_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What exactly is not to be had."""

    meaning: Meaning
    of: tuple[str | None, ...]

    def __str__(self) -> str:
        if self.meaning is Meaning.SUBNET:
            return f"an address in {self.of[0] or 'the subnet'}"
        market, kind, *zone = self.of
        where = f"in {zone[0]}" if zone and zone[0] else None
        what = f"vCPUs of {kind or 'such'} types" if self.meaning is Meaning.QUOTA else kind or "the template's type"
        return " ".join(filter(None, (market, what, where)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """How long a no is taken for granted: `until` by the clock that is passed in, for `length` seconds."""

    until: float
    length: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One refusal that is remembered; `code` is EC2's."""

    key: Key
    code: str
    hold: Hold


def next_hold(last: Hold | None, now: float, *, first: float, longest: float) -> Hold:
    """Return how long to hold for a no that came at `now`: twice as long where it came soon after the last ran out.

    Soon is within as many seconds as that held. What comes while one holds changes nothing.
    """
    if last is not None and now < last.until:
        return last
    soon = last is not None and now < last.until + last.length
    length = min(longest, 2 * last.length) if last is not None and soon else first
    return Hold(until=now + length, length=length)


class Offers:
    """The memory of refusals in one region. Capacity by market, type and zone; quotas by market and family."""

    def __init__(self) -> None:
        self._held: dict[Key, Held] = {}

    def refused(self, offer: Offer, answer: Refusal, now: float) -> Held | None:
        """Remember a refusal; return it where that is news, else None."""
        key = key_of(offer, answer.meaning)
        if key is None:
            return None
        before = self._held.get(key)
        hold = next_hold(before.hold if before else None, now, first=FIRST, longest=LONGEST)
        if before is not None and before.hold == hold:
            return None
        held = self._held[key] = Held(key=key, code=answer.code, hold=hold)
        return held

    def granted(self, offer: Offer) -> None:
        """Forget what was refused of this: it is to be had again."""
        for key in _keys(offer):
            self._held.pop(key, None)

    def held(self, offer: Offer, now: float) -> Held | None:
        """Return what keeps this from being asked for, the longest where there are several; None where nothing does."""
        found = [self._held[key] for key in _keys(offer) if key in self._held]
        return max((held for held in found if now < held.hold.until), key=lambda held: held.hold.until, default=None)

    def free_at(self, offers: Iterable[Offer], now: float) -> float | None:
        """Return when the first of these may be asked for again; None where one may be now, or there are none."""
        found = [self.held(offer, now) for offer in offers]
        ends = [held.hold.until for held in found if held is not None]
        return min(ends) if ends and len(ends) == len(found) else None


def key_of(offer: Offer, meaning: Meaning) -> Key | None:
    """Return what a refusal of this meaning says is not to be had; None where it says nothing lasting."""
    if meaning is Meaning.CAPACITY:
        return Key(meaning=meaning, of=(offer.market, offer.instance_type, offer.zone))
    if meaning is Meaning.SUBNET:
        return Key(meaning=meaning, of=(offer.subnet_id,))
    if meaning is Meaning.QUOTA:
        return Key(meaning=meaning, of=(offer.market, family(offer.instance_type)))
    return None


def family(instance_type: str | None) -> str | None:
    """Return the family of types that shares a quota of vCPUs with this one: "Standard" for c7i.large and for t3.nano.

    A name that is not known yet is a family of its own.
    """
    if instance_type is None:
        return None
    letters = (re.match(r"[a-z]+", instance_type) or [instance_type])[0]
    return next((name for starts, name in FAMILIES if letters in starts), letters.upper())


def _keys(offer: Offer) -> list[Key]:
    meanings = (Meaning.CAPACITY, Meaning.SUBNET, Meaning.QUOTA)
    return [key for key in (key_of(offer, meaning) for meaning in meanings) if key is not None]
