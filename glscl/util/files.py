"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it if the block succeeds.

    On any error the temporary file is removed and ``path`` is as before; a full disk
    gives an ``OSError`` that says so in one sentence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # mkstemp hides it from everybody else
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"The disk is full: {path} was not written; free some space",
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
