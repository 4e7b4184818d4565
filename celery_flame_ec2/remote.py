"""What can be asked of a parent over Celery's remote control? `celery inspect flame`, `celery control flame_...`"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.worker.control import control_command, inspect_command

if TYPE_CHECKING:
    from .config import Settings
    from .override import Request
    from .service import Service

#: Who decided it: remote control does not tell whose command it carries.
BY = "celery control"


@inspect_command(name="flame")  # type: ignore[untyped-decorator]
def overview(state: Any, **_: Any) -> dict[str, Any] | None:
    """How the pools stand, from workers that are parents."""
    service = _service(state)
    return None if service is None else service.overview().as_json()


@control_command(name="flame_pause", args=[("pool", str)], signature="[POOL]")  # type: ignore[untyped-decorator]
def pause(state: Any, pool: str | None = None, **_: Any) -> dict[str, str]:
    """Launch no more runners for a pool, or for all."""
    from . import override  # every `celery` command imports this module, for those that ask

    return _ask(state, lambda settings: override.pause(settings, pool, by=BY))


@control_command(name="flame_resume", args=[("pool", str)], signature="[POOL]")  # type: ignore[untyped-decorator]
def resume(state: Any, pool: str | None = None, **_: Any) -> dict[str, str]:
    """Launch runners again."""
    from . import override

    return _ask(state, lambda settings: override.pause(settings, pool, by=BY, paused=False))


@control_command(  # type: ignore[untyped-decorator]
    name="flame_scale", args=[("pool", str), ("number", str)], signature="POOL NUMBER|auto"
)
def scale(state: Any, pool: str = "", number: str = "", **_: Any) -> dict[str, str]:
    """Hold a pool at so many runners; auto leaves it to its policy again."""
    from . import override

    return _ask(state, lambda settings: override.scale(settings, pool, str(number), by=BY))


def _ask(state: Any, read: Callable[[Settings], Request]) -> dict[str, str]:
    """Hand on what is asked to the service's own thread: here nothing may wait for a store."""
    from .errors import FlameError
    from .settings import settings_of

    service = _service(state)
    if service is None:
        return {"ok": "no parent"}
    if not service.acts:
        return {"ok": "standing by: the parent that acts does it"}
    try:
        request = read(settings_of(state.app))
    except FlameError as exc:
        return {"error": str(exc)}
    service.request(request)
    return {"ok": f"{', '.join(request.pools)}: done with the next round"}


def _service(state: Any) -> Service | None:
    autoscaler = getattr(state.consumer.controller, "autoscaler", None)
    service: Service | None = getattr(autoscaler, "service", None)
    return service
