"""What may a user set in `env`? Names and values that config accepts, by hypothesis and by chance."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from celery_flame_ec2.parent import RESERVED_VARIABLES

#: What Unicode reserves, and systemd takes for no text.
NONCHARACTERS = "".join(
    map(chr, (*range(0xFDD0, 0xFDF0), *(plane << 16 | 0xFFFE | low for plane in range(17) for low in (0, 1))))
)
#: What means something to a shell, systemd, Python, JSON, MIME or a terminal.
TELLING = "\"'\\`$%{}()#;=&|<>~*?! \t\r\n\v\f\x01\x1b\x7f\x80\x85\xa0\u2028\ufeffEOF"

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True).filter(lambda name: name not in RESERVED_VARIABLES)
values = st.text(
    st.characters(exclude_characters="\0" + NONCHARACTERS, exclude_categories=["Cs"]) | st.sampled_from(TELLING)
)
environments = st.dictionaries(names, values, max_size=8)


def by_chance(seed: int, count: int) -> list[dict[str, str]]:
    """Return so many environments, the same for the same seed."""
    chance = random.Random(seed)
    return [{f"V{number}_": _value(chance) for number in range(chance.randrange(1, 6))} for _ in range(count)]


def _value(chance: random.Random) -> str:
    return "".join(_character(chance) for _ in range(chance.choice((0, 1, 2, 5, 20, 100))))


def _character(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return chance.choice(TELLING)
    while (found := chr(chance.randrange(1, 0x110000))) in NONCHARACTERS or "\ud800" <= found <= "\udfff":
        pass
    return found
