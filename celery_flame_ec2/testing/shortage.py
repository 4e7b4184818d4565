"""What does EC2 refuse, because a test says so?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from ..backends.ec2.offers import Offer
from ..backends.ec2.refusals import CODES, Meaning, Refusal, known, meaning_of
from ..options import suggestion

ACTION = "ec2:RunInstances"
#: What launches can be told apart by, in the order of `_asked`.
AIMS = ("pool", "market", "instance_type", "subnet_id")


@dataclass(kw_only=True, slots=True, eq=False)
class Shortage:
    """EC2's no to launches, by its code: to those of a `pool`, `market`, `instance_type` or `subnet_id`, or to all.

    It holds until `end`, or for so many `times`; or only for what would be more than `beyond` runners at once. With
    `unanswered` a launch goes well, and only its answer gets lost.
    """

    code: str
    message: str = "so the test says"
    pool: str | None = None
    market: str | None = None
    instance_type: str | None = None
    subnet_id: str | None = None
    beyond: int = 0
    times: int | None = None
    unanswered: bool = False
    over: bool = False

    def __enter__(self) -> Shortage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Grant launches again."""
        self.over = True

    def holds(self, pool: str, offer: Offer) -> bool:
        """Tell whether this is refused."""
        wanted = [getattr(self, aim) for aim in AIMS]
        return not self.over and all(
            one in (None, other) for one, other in zip(wanted, _asked(pool, offer), strict=True)
        )

    def check(self, offers: Iterable[tuple[str, Offer]]) -> None:
        """See that this can hold, of what each pool asks for.

        Raises:
            ValueError: its code is not known, or no launch is for what it names.
        """
        if not known(self.code):
            near = f"{suggestion(self.code, CODES)} (what is not known is taken as 'UnauthorizedOperation' is)"
            raise ValueError(f"refuse: code {self.code!r} is not known{near}")
        asked = [_asked(pool, offer) for pool, offer in offers]
        for number, aim in enumerate(AIMS):
            wanted, there = getattr(self, aim), dict.fromkeys(filter(None, (each[number] for each in asked)))
            if wanted is not None and wanted not in there:
                near = f"{suggestion(wanted, there)} (known: {', '.join(there) or 'none'})"
                raise ValueError(f"refuse: no launch is for {aim} {wanted!r}{near}")
            asked = [each for each in asked if wanted in (None, each[number])]

    def say(self) -> Refusal:
        """Return the refusal, and count it."""
        if self.times is not None:
            self.times -= 1
            self.over = self.times <= 0
        meaning = Meaning.UNCLEAR if self.unanswered else meaning_of(self.code, 400)
        return Refusal(meaning=meaning, action=ACTION, code=self.code, message=self.message)


def _asked(pool: str, offer: Offer) -> tuple[str | None, ...]:
    return pool, offer.market, offer.instance_type, offer.subnet_id
