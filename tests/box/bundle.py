"""What does a release of a test's own making hold?"""

from __future__ import annotations

import io
import tarfile


def archive(files: dict[str, str], mode: int = 0o755) -> bytes:
    """Return a .tar.gz of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
