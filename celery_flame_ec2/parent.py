"""What does a parent tell the runners it launches?"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import LetterError
from .runner import Limits

LETTER_VARIABLE = "FLAME_PARENT"
RUNNER_ID_VARIABLE = "FLAME_RUNNER_ID"
#: Path of a file the worker creates when it says hello; its absence is what the boot deadman waits for.
HELLO_VARIABLE = "FLAME_HELLO_FILE"
#: Which listings show this runner, where not all of its backend's do.
PLACE_VARIABLE = "FLAME_PLACE"
RESERVED_VARIABLES = frozenset({LETTER_VARIABLE, RUNNER_ID_VARIABLE, HELLO_VARIABLE, PLACE_VARIABLE})


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """The letter. The same for every runner of one launch: who a runner is, it learns from its machine.

    `warm` marks the runners that make up a pool's `min`; `concurrency` is tasks at a time on one runner. `metadata`
    has the `url` and `token_url` of instance metadata where they are not EC2's own. `board` is where a runner pins its
    words, empty where the broker carries them: s3://bucket/key?region=...&endpoint=..., or file:///path.
    """

    owner: str
    pool: str
    backend: str
    queues: tuple[str, ...]
    concurrency: int
    limits: Limits = field(default_factory=Limits)
    worker_options: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    board: str = ""

    def encode(self) -> str:
        """Return the letter as base64 of JSON: safe in any environment file and on any command line."""
        fields = dataclasses.asdict(self)
        # A release built before these were known can read the letters of those who do not use them.
        for group, name in ((fields, "metadata"), (fields, "board"), (fields["limits"], "end_on_rebalance")):
            if not group[name]:
                del group[name]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return base64.b64encode(text.encode()).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Parent:
        """Read a letter; what a later parent wrote besides is left out.

        Raises:
            LetterError: it is not base64, not JSON, or not what `encode` writes.
        """
        try:
            fields = json.loads(base64.b64decode(text, validate=True))
            fields["queues"] = tuple(fields["queues"])
            fields["limits"] = Limits(**_known(Limits, fields["limits"]))
            return cls(**_known(cls, fields))
        except (binascii.Error, ValueError, TypeError, KeyError) as exc:
            raise LetterError(
                f"{LETTER_VARIABLE} is not a letter from a parent ({type(exc).__name__}: {exc}); "
                "unset it, or let a parent start this runner"
            ) from exc


def _known(kind: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if name in names}


def flame_parent(environ: Mapping[str, str] | None = None) -> Parent | None:
    """Return the letter this process was started with, or None where it is not a FLAME child.

    Raises:
        LetterError: FLAME_PARENT is set and cannot be read.
    """
    text = (os.environ if environ is None else environ).get(LETTER_VARIABLE)
    return Parent.decode(text) if text else None
