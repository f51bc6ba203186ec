"""Video files of a folder, found by name whatever their suffix."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

State = tuple[int, int]  # of a file: bytes, and nanoseconds of its last change
SUFFIXES = {".mp4", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".mkv", ".webm"}
SUFFIXES |= {".wmv", ".flv", ".ogv", ".mts", ".m2ts"}


def without_suffix(name: str) -> str:
    """``name`` without the suffix of a video; other dots are part of a name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def file_state(path: Path) -> State:
    """The present state of a file; of a link that leads nowhere, that of the link.

    Raises ``OSError`` where there is no such file.
    """
    try:
        stat = path.stat()
    except OSError:
        stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns


def list_videos(
    folder: str | Path, unreadable: dict[Path, str] | None = None
) -> list[Path]:
    """Every video below ``folder``, in the order of their names.

    Links are followed, each folder once, so that a link to a folder above is no loop.
    Folders that cannot be listed are added to ``unreadable``, with the reason: what is
    in them is unknown, not gone. Without it they raise ``OSError``.
    """

    def refused(error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return  # it is gone by now
        if unreadable is None:
            raise error
        unreadable[Path(error.filename)] = str(error.strerror)

    found, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        state = os.stat(parent)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders.sort()
        videos = (name for name in names if without_suffix(name) != name)
        found += [Path(parent, name) for name in videos if name[0] != "."]
    return sorted(found)


def by_relative_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Paths below ``folder`` by their name in it, without suffix.

    Raises ``ValueError`` where two files have one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = without_suffix(path.relative_to(folder).as_posix())
        if name in found:
            raise ValueError(
                f"Two files are named {name}: {found[name]} and {path}; rename one."
            )
        found[name] = path
    return found


def by_file_name(folder: str | Path) -> dict[str, list[Path]]:
    """The videos below ``folder`` by file name without suffix."""
    found: dict[str, list[Path]] = {}
    for path in list_videos(folder):
        found.setdefault(without_suffix(path.name), []).append(path)
    return found


def first_of(names: Iterable[str], files: Mapping[str, list[Path]]) -> Path | None:
    """The file named by the first of ``names`` that exists, None if none does.

    Raises ``ValueError`` where two ``files`` have that name.
    """
    name = next((name for name in names if name in files), "")
    paths = files.get(name, [None])
    if len(paths) > 1:
        raise ValueError(
            f"Two files are named {name}: {paths[0]} and {paths[1]}; leave one."
        )
    return paths[0]
