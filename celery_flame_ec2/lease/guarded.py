"""How is a compute backend kept from doing anything for a parent that does not hold the lease?"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..backends.base import Backend
from ..config import PoolSettings
from ..errors import LeaseError
from ..parent import Parent
from ..runner import Launch, Runner


class Guarded(Backend):
    """A compute backend that looks for anybody, and acts only while `acts` says so: asked right before each request.

    Raises LeaseError where it says no.
    """

    def __init__(self, backend: Backend, acts: Callable[[], bool], announce: Callable[[Launch], None]) -> None:
        self._backend, self._acts = backend, acts
        backend.guard, backend.announce = self._check, announce
        self.listing_ttl, self.visible_within = backend.listing_ttl, backend.visible_within

    def prepare(self) -> None:
        self._backend.prepare()

    def release(self, pool: PoolSettings) -> str:
        return self._backend.release(pool)

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        self._check()
        return self._backend.launch(letter, count)

    def ask_again(self, token: str) -> tuple[Runner, ...] | None:
        self._check()
        return self._backend.ask_again(token)

    def runners(self) -> tuple[Runner, ...]:
        return self._backend.runners()

    def place(self) -> str:
        return self._backend.place()

    def terminate(self, ids: Collection[str]) -> None:
        self._check()
        self._backend.terminate(ids)

    def last_words(self, runner_id: str) -> str:
        return self._backend.last_words(runner_id)

    def concurrency(self, pool: PoolSettings) -> int:
        return self._backend.concurrency(pool)

    def close(self) -> None:
        self._backend.close()

    def _check(self) -> None:
        if not self._acts():
            raise LeaseError("nothing more is done: this parent lost the lease since it looked")
