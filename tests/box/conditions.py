"""What is EC2 short of, slow with and strict about?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tests.box.wire import Refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What one launch request asks for. `market` is "spot" or "on-demand"."""

    market: str
    instance_type: str
    zone: str
    subnet_id: str = ""

    @property
    def family(self) -> str:
        return self.instance_type.partition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A token bucket: how much it holds, and how much comes back in a second."""

    burst: float
    refill: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How a launch that was granted fails: `after` so many seconds, with a StateReason."""

    after: float
    code: str = "Server.InternalError"
    message: str = "Internal error on launch"


#: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html, by action; what is not here is not limited
REQUESTS: Mapping[str, Limit] = MappingProxyType({
    "RunInstances": Limit(burst=5, refill=2),
    "TerminateInstances": Limit(burst=100, refill=5),
    "Describe": Limit(burst=100, refill=20),  # with a filter or a page size
    "Describe*": Limit(burst=50, refill=10),  # with neither
})  # fmt: skip
RESOURCES: Mapping[str, Limit] = MappingProxyType({
    "RunInstances": Limit(burst=1000, refill=2),
    "TerminateInstances": Limit(burst=1000, refill=20),
})  # fmt: skip


@dataclass(kw_only=True, slots=True)
class _Bucket:
    limit: Limit
    level: float
    at: float

    def has(self, tokens: float, now: float) -> bool:
        self.level = min(self.limit.burst, self.level + max(0.0, now - self.at) * self.limit.refill)
        self.at = now
        return self.level >= tokens


class Conditions:
    """EC2's moods, by themselves: whoever plays EC2 asks here what to grant, what to refuse and what to show.

    Everything is unlimited and prompt until it is set; `clock` gives seconds. A refusal is raised as `wire.Refusal`,
    with code, message and HTTP status. Used by one thread at a time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: How many more there are of (market, type, zone); what is not here has no end. A launch takes from it.
        self.room: dict[tuple[str, str, str], int] = {}
        #: Free addresses by subnet; what is not here has no end. A launch takes from it, an end gives back.
        self.addresses: dict[str, int] = {}
        #: How many instances of (market, family) may live at once.
        self.quotas: dict[tuple[str, str], int] = {}
        #: Token buckets by action; empty means that nothing is throttled.
        self.requests: Mapping[str, Limit] = {}
        self.resources: Mapping[str, Limit] = {}
        #: Seconds until a launch is listed, and until a listing knows of an end; asked once for each instance.
        self.launch_lag: Callable[[], float] = float
        self.end_lag: Callable[[], float] = float
        #: What will become of an instance that is granted; None is well. Asked once for each instance.
        self.fate: Callable[[Offer], Failure | None] = _well
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._living: dict[str, Offer] = {}
        self._listed_from: dict[str, float] = {}
        self._end_listed_from: dict[str, float] = {}
        self._failing: dict[str, tuple[float, Failure]] = {}

    def throttle_as_aws(self) -> None:
        """Hold callers to the documented limits from now on."""
        self.requests, self.resources = REQUESTS, RESOURCES

    def admit(self, action: str, *, resources: int = 1, filtered: bool = True) -> None:
        """Count one call, which asks for so many instances; `filtered` for a Describe with a filter or a page size.

        Raises:
            Refusal: RequestLimitExceeded; the call counts as not made.
        """
        name = ("Describe" if filtered else "Describe*") if action.startswith("Describe") else action
        taken = [
            (bucket, tokens)
            for kind, limits, tokens in (("requests", self.requests, 1), ("resources", self.resources, resources))
            if (bucket := self._bucket(kind, name, limits)) is not None
        ]
        if not all(bucket.has(tokens, self._clock()) for bucket, tokens in taken):
            raise Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        for bucket, tokens in taken:
            bucket.level -= tokens

    def grant(self, offer: Offer, *, least: int, most: int) -> int:
        """Return how many instances a launch of `least` to `most` gets; nothing is counted until `launched`.

        Raises:
            Refusal: not even `least`, by quota, addresses or capacity, in this order.
        """
        living = sum(each.market == offer.market and each.family == offer.family for each in self._living.values())
        by_quota = self.quotas.get((offer.market, offer.family), living + most) - living
        if by_quota < least:
            raise _over_quota(offer)
        by_address = self.addresses.get(offer.subnet_id, most)
        if by_address < least:
            raise Refusal(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{offer.subnet_id}' to satisfy the request.",
            )
        by_room = self.room.get((offer.market, offer.instance_type, offer.zone), most)
        if by_room < least:
            raise Refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {offer.instance_type} capacity in the Availability Zone you "
                f"requested ({offer.zone}).",
                500,
            )
        return min(most, by_quota, by_address, by_room)

    def launched(self, instance_ids: Iterable[str], offer: Offer) -> None:
        """Count instances that now exist; from here on they may be hidden, and may fail."""
        key, now = (offer.market, offer.instance_type, offer.zone), self._clock()
        for instance_id in instance_ids:
            self._living[instance_id] = offer
            self._listed_from[instance_id] = now + self.launch_lag()
            if key in self.room:
                self.room[key] -= 1
            if offer.subnet_id in self.addresses:
                self.addresses[offer.subnet_id] -= 1
            failure = self.fate(offer)
            if failure is not None:
                self._failing[instance_id] = (now + failure.after, failure)

    def ended(self, instance_id: str) -> None:
        """Count an instance that is terminated; a second time, or one that was never launched, counts for nothing."""
        offer = self._living.pop(instance_id, None)
        if offer is None:
            return
        self._failing.pop(instance_id, None)
        self._end_listed_from[instance_id] = self._clock() + self.end_lag()
        if offer.subnet_id in self.addresses:
            self.addresses[offer.subnet_id] += 1

    def due(self) -> dict[str, Failure]:
        """Return the instances whose launch fails now, each once; whoever plays EC2 terminates them."""
        now = self._clock()
        found = {one: failure for one, (at, failure) in self._failing.items() if at <= now}
        for instance_id in found:
            del self._failing[instance_id]
        return found

    def dooms(self, instance_id: str) -> bool:
        """Tell whether this launch will fail; until then it stays pending."""
        return instance_id in self._failing

    def lists(self, instance_id: str) -> bool:
        """Tell whether a listing knows of this instance yet; also whether a call by its id does."""
        return self._clock() >= self._listed_from.get(instance_id, float("-inf"))

    def lists_end(self, instance_id: str) -> bool:
        """Tell whether a listing knows of this instance's end yet; until then it is shown as it was before."""
        return self._clock() >= self._end_listed_from.get(instance_id, float("-inf"))

    def living(self) -> Counter[tuple[str, str]]:
        """Return how many instances live, by market and family."""
        return Counter((offer.market, offer.family) for offer in self._living.values())

    def _bucket(self, kind: str, action: str, limits: Mapping[str, Limit]) -> _Bucket | None:
        limit = limits.get(action)
        if limit is None:
            return None
        found = self._buckets.get((kind, action))
        if found is None or found.limit != limit:
            found = self._buckets[kind, action] = _Bucket(limit=limit, level=limit.burst, at=self._clock())
        return found


def _well(_: Offer) -> Failure | None:
    return None


def _over_quota(offer: Offer) -> Refusal:
    if offer.market == "spot":
        return Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    return Refusal(
        "VcpuLimitExceeded",
        "You have requested more vCPU capacity than your current vCPU limit allows for the instance bucket that the "
        f"specified instance type ({offer.instance_type}) belongs to.",
    )
