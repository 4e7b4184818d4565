"""What does AWS answer, and what does it mean for a check when it does not?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ....errors import BackendError
from ....finding import Finding, failed, unknown
from ..clients import Clients, Place, Refused, asking
from ..refusals import PASSING, Meaning, Refusal

T = TypeVar("T")


class Asker:
    """AWS in one place, asked each thing once. A service that did not answer is not asked again: nobody waits twice."""

    def __init__(self, clients: Clients, place: Place) -> None:
        self.clients, self.place = clients, place
        self._told: dict[tuple[str, str], Any] = {}
        self._silent: dict[str, Refusal] = {}

    def ask(self, action: str, method: Callable[..., T], *args: Any, **words: Any) -> T | Refusal:
        """Return what `method` returns, or why it raised. `action` is the right it needs, such as "s3:GetObject"."""
        service, _, name = action.partition(":")
        if self.is_silent(service):
            return self._silent[service]
        key = (f"{action} {getattr(method, '__qualname__', name)}", repr((args, sorted(words.items()))))
        if key not in self._told:
            self._told[key] = _answer(action, method, *args, **words)
        answer: T | Refusal = self._told[key]
        if isinstance(answer, Refusal) and answer.meaning in PASSING and not answer.code:
            self._silent[service] = answer
        return answer

    def is_silent(self, service: str) -> bool:
        """Tell whether a service did not answer once."""
        return service in self._silent

    def described(
        self, action: str, method: str, member: str, filters: Mapping[str, Collection[str]], **words: Any
    ) -> list[dict[str, Any]] | Refusal:
        """Return everything EC2 describes under these filters, of all pages."""

        def every() -> list[dict[str, Any]]:
            client: Any = self.clients.ec2(self.place)
            pages = client.get_paginator(method).paginate(Filters=_filters(filters), **words)
            return [item for page in pages for item in page.get(member, ())]

        every.__qualname__ = f"{method} {_filters(filters)} {words}"
        return self.ask(action, every)


def _answer(action: str, method: Callable[..., T], *args: Any, **words: Any) -> T | Refusal:
    try:
        with asking(action):
            return method(*args, **words)
    except Refused as exc:
        return exc.refusal
    except BackendError as exc:
        return Refusal(meaning=Meaning.FATAL, action=action, code="", message=str(exc))


def _filters(filters: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": sorted(values)} for name, values in filters.items()]


def not_told(check: str, answer: Refusal, *, needed: bool = False) -> Finding:
    """Return what a refusal means for a check; `needed` where the parent has to ask the same to launch."""
    said = f"{answer.action}: " + ": ".join(part for part in (answer.code, answer.message) if part)
    if answer.meaning in PASSING:
        return unknown(check, said, "see that this machine reaches AWS, and ask again", silent=True)
    if answer.meaning is Meaning.CREDENTIALS:
        return unknown(check, f"{answer.action}: AWS does not know the caller", "see credentials")
    if answer.forbidden and not needed:
        return unknown(check, said, f"allow {answer.action} to whoever runs this, or look yourself")
    return failed(check, said, answer.remedy)
