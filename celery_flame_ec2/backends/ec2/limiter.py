"""How fast may instances be asked for? Pure: the clock is passed in, and nobody sleeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Burst and refill per second, from "Request throttling for the Amazon EC2 API" in AWS's Amazon EC2 Developer Guide:
#: RunInstances by requests, and by the instances that a request launches. Per account and region.
REQUESTS = (5.0, 2.0)
RESOURCES = (1000.0, 2.0)
#: Seconds without requests after EC2 refused one as too many; doubled while it goes on, up to the second number.
FIRST_REST, LONGEST_REST = 1.0, 32.0
#: What is this near to a whole token is one: a wait that was computed must be long enough.
NEAR = 1e-6


@dataclass(kw_only=True, slots=True)
class Bucket:
    """A token bucket: `level` of `burst` tokens at the time `at`, `refill` more each second."""

    burst: float
    refill: float
    level: float
    at: float

    def fill(self, now: float) -> int:
        """Return the whole tokens there are now. A clock that goes back gives none and takes none."""
        self.level = min(self.burst, self.level + max(0.0, now - self.at) * self.refill)
        self.at = now
        return int(self.level + NEAR)

    def wait(self, now: float) -> float:
        """Return the seconds until there is one."""
        return 0.0 if self.fill(now) >= 1 else (1.0 - self.level) / self.refill


class Limiter:
    """EC2's own buckets for RunInstances in one region, kept here so as to stop before EC2 says so.

    Other users of the account draw from the same: `throttled` is what EC2 says then. Describing and terminating have
    buckets of their own (100 requests, and 5 or more a second), which a parent's few calls in a round do not empty.
    """

    def __init__(self, now: float, jitter: Callable[[], float]) -> None:
        """Begin with full buckets; `jitter` is from 0 to 1."""
        self._jitter = jitter
        self._rest, self._rests_until = 0.0, float("-inf")
        self._requests = Bucket(burst=REQUESTS[0], refill=REQUESTS[1], level=REQUESTS[0], at=now)
        self._resources = Bucket(burst=RESOURCES[0], refill=RESOURCES[1], level=RESOURCES[0], at=now)

    def take(self, count: int, now: float) -> int:
        """Take one request for up to `count` instances; return how many it may ask for, 0 where there is none."""
        granted = min(count, self._resources.fill(now))
        if granted < 1 or not self.take_request(now):
            return 0
        self._resources.level -= granted
        return granted

    def take_request(self, now: float) -> bool:
        """Take one request that launches nothing new; return whether there is one."""
        if self._requests.fill(now) < 1 or now < self._rests_until:
            return False
        self._requests.level -= 1
        return True

    def give_back(self, count: int) -> None:
        """Take back what a request asked for and did not get: only what is launched counts."""
        self._resources.level = min(RESOURCES[0], self._resources.level + count)

    def throttled(self, now: float) -> float:
        """Take EC2's word that no request is left: rest, twice as long each time in a row; return for how long.

        Between half of that and all of it, or all parents of an account would come back at once.
        """
        self._requests.fill(now)
        self._requests.level = min(self._requests.level, 0.0)
        self._rest = min(LONGEST_REST, max(FIRST_REST, 2 * self._rest))
        rest = self._rest * (1.0 + self._jitter()) / 2
        self._rests_until = now + rest
        return rest

    def heard(self) -> None:
        """Take any other answer: requests are let through."""
        self._rest = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a request for an instance is allowed."""
        return max(self._requests.wait(now), self._resources.wait(now), self._rests_until - now)
