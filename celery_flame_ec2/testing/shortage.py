"""What does EC2 refuse, because a test says so?"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from ..backends.ec2.offers import Offer
from ..backends.ec2.refusals import Meaning, Refusal, meaning_of

ACTION = "ec2:RunInstances"


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
        wanted = (self.pool, self.market, self.instance_type, self.subnet_id)
        asked = (pool, offer.market, offer.instance_type, offer.subnet_id)
        return not self.over and all(one is None or one == other for one, other in zip(wanted, asked, strict=True))

    def say(self) -> Refusal:
        """Return the refusal, and count it."""
        if self.times is not None:
            self.times -= 1
            self.over = self.times <= 0
        meaning = Meaning.UNCLEAR if self.unanswered else meaning_of(self.code, 400)
        return Refusal(meaning=meaning, action=ACTION, code=self.code, message=self.message)
