"""Where do runners pin their words and read orders, where the broker carries neither?"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import BoardError
from .base import Board

__all__ = ("Board", "open_board")


def open_board(place: str) -> Board:
    """Return the board at a place as `Settings.board` and the letter name it; nothing is asked of it yet.

    Raises:
        BoardError: the SDK is missing, or its client cannot be made.
    """
    parts = urlsplit(place)
    if parts.scheme == "file":
        from .folder import Folder

        return Folder(Path(unquote(parts.path)))
    try:
        from .s3 import S3Board
    except ImportError as exc:
        raise BoardError(f"{place} needs boto3, which is not here ({exc}); have the release require boto3") from exc
    where = dict(parse_qsl(parts.query))
    key = unquote(parts.path.lstrip("/"))
    return S3Board(parts.netloc, key, region=where.get("region"), endpoint=where.get("endpoint"))
