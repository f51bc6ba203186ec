"""Video files of a folder, found by name whatever their suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {".mp4", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".mkv", ".webm"}
SUFFIXES |= {".wmv", ".flv", ".ogv"}


def without_suffix(name: str) -> str:
    """``name`` without the suffix of a video; other dots are part of a name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


class VideoFiles:
    """Paths by file name without suffix."""

    def __init__(self, paths: Iterable[Path]):
        self.paths: dict[str, list[Path]] = {}
        for path in paths:
            self.paths.setdefault(without_suffix(path.name), []).append(path)

    def get(self, names: Iterable[str]) -> Path | None:
        """The file named by the first of ``names`` that exists, None if none does.

        Raises ``ValueError`` where two files have that name.
        """
        for name in names:
            found = self.paths.get(name, [])
            if len(found) > 1:
                raise ValueError(
                    f"Two files are named {name}: {found[0]} and {found[1]}; leave one."
                )
            if found:
                return found[0]
        return None


def list_videos(folder: str | Path) -> list[Path]:
    """Every video below ``folder``, links followed, in the order of their names."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
    )


def find_videos(folder: str | Path) -> VideoFiles:
    """The videos below ``folder``, by name."""
    return VideoFiles(list_videos(folder))
