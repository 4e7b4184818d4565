"""What can go wrong, and what does the caller need to know about it?

FlameError
├── SettingsError       the settings cannot work; lists every problem at once
├── LetterError         FLAME_PARENT cannot be read
├── DemandUnknown       the broker did not say how deep a queue is
├── BackendError        the compute backend did not answer, or refused
│   ├── ListingPartial  runners could be listed in some places only
│   ├── LaunchError     nothing was launched, and the reason is known
│   └── LaunchUnclear   whether more was launched than is known of
├── LeaseError          another parent may be acting
│   └── LeaseDenied     the lease's store answers, and refuses
├── HoldingsError       Redis did not say, or take back, what runners hold
├── OrderError          runners cannot be told to take work, or none
├── OverrideError      an operator's decision for a pool is refused, or cannot be noted
├── BoardError          the board, where runners pin their words, did not answer
├── PageError           the status page cannot be served
├── MetadataError       instance metadata did not answer
├── ReleaseError        a release cannot be built or read
│   └── NoRoom          there is no place to build or read it in
└── TraceError          a recorded load cannot be read, or none can be recorded
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: What kept a launch from bringing runners up, in the one word that metrics and signals have for it.
FAILURE_KINDS = {
    "boot": "machines did not come up",
    "capacity": "EC2 has no such machine now",
    "credentials": "AWS does not know the parent",
    "other": "none of these",
    "quota": "the account's limit is reached",
    "refused": "EC2 refuses it until something changes",
    "subnet": "a subnet has no free address",
    "throttled": "too many calls to EC2",
    "unanswered": "EC2 did not answer: it may have launched",
    "unreachable": "there is no connection to EC2",
}


class FlameError(Exception):
    """Base of every error this package raises on purpose."""


class SettingsError(FlameError):
    """Raised when settings are refused; `problems` holds one sentence for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class LetterError(FlameError):
    """Raised when FLAME_PARENT is set but is not a letter a parent wrote."""


class DemandUnknown(FlameError):
    """Raised when a queue's depth could not be read. Unknown is not zero: launch nothing, end nothing."""


class BackendError(FlameError):
    """Raised when a compute backend did not answer or refused; what exists is then unknown."""


class LaunchError(BackendError):
    """Raised when a launch was refused: no runner came of it.

    `retry_in` are the seconds after which another try may go better; None where the backend cannot tell. `kind` is one
    of FAILURE_KINDS.
    """

    def __init__(self, message: str, *, retry_in: float | None = None, kind: str = "other") -> None:
        self.retry_in, self.kind = retry_in, kind
        super().__init__(message)


class LaunchUnclear(BackendError):
    """Raised when a launch was not answered: `launched` are the runners known of, `tokens` name what is open.

    Each token was announced before its request was sent, with the number of runners that may come of it.
    """

    def __init__(self, message: str, *, launched: tuple[Any, ...] = (), tokens: tuple[str, ...]) -> None:
        self.launched, self.tokens = launched, tokens
        super().__init__(message)


class ListingPartial(BackendError):
    """Raised when runners could be listed in some places only: `runners` are these, `unknown` says why by pool."""

    def __init__(self, *, runners: tuple[Any, ...], unknown: Mapping[str, str]) -> None:
        self.runners, self.unknown = runners, unknown
        super().__init__("; ".join(dict.fromkeys(unknown.values())))


class LeaseError(FlameError):
    """Raised when the lease's store did not answer, or when what only its holder may do is refused."""


class LeaseDenied(LeaseError):
    """Raised when the lease's store answers, and refuses for want of a right."""


class HoldingsError(FlameError):
    """Raised when Redis did not answer about what runners hold; whose messages did not come back is found again."""


class OrderError(FlameError):
    """Raised when runners cannot be told to take no more work, or to take it again."""


class OverrideError(FlameError):
    """Raised when what an operator decided for a pool is refused, or cannot be noted."""


class BoardError(FlameError):
    """Raised when the board, where runners pin their words, did not answer, or refused."""


class PageError(FlameError):
    """Raised when the status page, or its metrics, cannot be served; a worker goes on without."""


class MetadataError(FlameError):
    """Raised when instance metadata cannot be read."""


class ReleaseError(FlameError):
    """Raised when a release cannot be built or read."""


class NoRoom(ReleaseError):
    """Raised when a release cannot be built or read for want of a directory with room."""


class TraceError(FlameError):
    """Raised when a recorded load cannot be read, naming file, line and reason, or cannot be recorded."""
