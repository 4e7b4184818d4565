"""How is a word written so that it can be a name, and read from a name that anybody may have made?"""

from __future__ import annotations

import base64
import binascii
import json
import re

from ..presence import Word
from ..runner import RunnerState

#: What a runner's id may be; what is not cannot be a part of a key or a path.
RUNNER_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
#: A counter, and base64 without padding: what S3 calls safe in a key.
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
TEXT = re.compile(r"(\d{1,16})\.([A-Za-z0-9_-]{1,700})", re.ASCII)
#: Bytes of a reason that are kept, so that no key passes S3's 1,024.
LONGEST_REASON = 200


def write(word: Word, count: int) -> str:
    """Return a word as `count`.`base64url of a JSON list`; a later word has a greater count."""
    printable = "".join(each if each.isprintable() else " " for each in word.reason)
    reason = printable.encode(errors="replace")[:LONGEST_REASON].decode(errors="ignore")
    fields = json.dumps([word.state.value, word.active, word.taken, word.pool, reason], ensure_ascii=False)
    return f"{count}.{base64.urlsafe_b64encode(fields.encode()).decode().rstrip('=')}"


def count_of(text: str) -> int:
    """Return a text's count.

    Raises:
        ValueError: nobody of us wrote it.
    """
    if not (match := TEXT.fullmatch(text)):
        raise ValueError("not a word")
    return int(match[1])


def read(runner_id: str, text: str, *, owner: str, heard_at: float) -> Word:
    """Return the word that `write` wrote.

    Raises:
        ValueError: nobody of us wrote it.
    """
    match = TEXT.fullmatch(text)
    if match is None or not RUNNER_ID.fullmatch(runner_id):
        raise ValueError("not a word")
    state, active, taken, pool, reason = _fields(match[2])
    return Word(
        runner_id=runner_id,
        pool=pool,
        owner=owner,
        state=RunnerState(state),
        active=active,
        taken=taken,
        reason=reason,
        heard_at=heard_at,
    )


def _fields(packed: str) -> tuple[str, int, int, str, str]:
    try:
        fields = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    except (binascii.Error, RecursionError, UnicodeDecodeError) as exc:
        raise ValueError("not a word") from exc
    if not isinstance(fields, list) or [type(each) for each in fields] != [str, int, int, str, str]:
        raise ValueError("not a word")
    state, active, taken, pool, reason = fields
    if min(active, taken) < 0 or not reason.isprintable() or state not in {each.value for each in RunnerState}:
        raise ValueError("not a word")
    return state, active, taken, pool, reason
