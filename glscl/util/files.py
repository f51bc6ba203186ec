"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it if the block succeeds.

    On any error the temporary file is removed and ``path`` is as before; a full disk
    gives an ``OSError`` that says so in one sentence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors hides a file from everybody else
        os.replace(temporary, path)
    except BaseException as error:
        full = isinstance(error, Exception) and _is_full(temporary, error)
        temporary.unlink(missing_ok=True)
        if full:
            raise OSError(
                errno.ENOSPC,
                f"The disk is full: {path} was not written; free some space",
            ) from error
        raise


def _is_full(path: Path, error: Exception) -> bool:
    """Whether a full disk is why writing ``path`` failed with ``error``.

    Libraries raise errors of many types; then not even a block can be added. safetensors
    removes what it has written, but names the error of the system.
    """
    named = any(f"os error {number}" in str(error) for number in FULL)
    if named or getattr(error, "errno", None) in FULL:
        return True
    try:
        with path.open("ab") as file:
            file.write(bytes(4096))
    except OSError as refused:
        return refused.errno in FULL
    return False


def printable(text: str) -> str:
    """``text`` with a ? for bytes that are no text, and for control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", text)


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` as UTF-8, whole or not at all.

    Bytes of file names in no known encoding become ``\udcXX``, which JSON reads back.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write ``content`` as JSON with a last newline, whole or not at all."""
    separators = None if indent else (",", ":")
    text = json.dumps(content, ensure_ascii=False, indent=indent, separators=separators)
    write_text(path, text + "\n")


def cache_folder(root: Path) -> Path:
    """``root``/cache, or the user's own ~/.cache/glscl where ``root`` is read-only."""
    nearest = next(p for p in (root / "cache", root, *root.parents) if p.exists())
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "glscl")
    return root / "cache" if os.access(nearest, os.W_OK) else own
