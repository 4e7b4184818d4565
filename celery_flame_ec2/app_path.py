"""Under which import path does a new process find this app?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

#: Where Celery and this package keep their own references to an app: no new process would find it there.
_NOT_THE_USERS = frozenset({"celery", "celery_flame_ec2"})


def import_path(app: Any) -> str | None:
    """Return `module:attribute` as `celery -A` takes it, or None where no imported module holds the app.

    Of several places the likeliest is taken: where the app says it lives, then the shortest way to an `app`.
    """
    found = [
        (module != app.main, attribute not in {"app", "celery"}, module.count("."), module, attribute)
        for module, attribute in _places(app)
    ]
    return "{3}:{4}".format(*min(found)) if found else None


def _places(app: Any) -> Iterator[tuple[str, str]]:
    for listed, module in list(sys.modules.items()):
        name = _importable_name(listed, module)
        if name is None or name.partition(".")[0] in _NOT_THE_USERS:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and attribute.isidentifier():
                yield name, attribute


def _importable_name(listed: str, module: ModuleType | None) -> str | None:
    if listed not in {"__main__", "__mp_main__"}:
        return listed
    # `python -m proj.app` runs the module under another name; a script has no name to import it by
    spec = getattr(module, "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else None
