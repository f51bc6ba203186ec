"""Where things lie, and the one kind of error a reader of the book may meet."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """Bad input or a failed step: one sentence of what, where and what was expected."""


@dataclass(frozen=True)
class Project:
    """The folders of one checkout; everything that is made lies in ``_build``."""

    root: Path

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def book(self) -> Path:
        return self.root / "book"

    @property
    def build(self) -> Path:
        return self.root / "_build"

    @property
    def executed(self) -> Path:
        return self.build / "executed"

    @property
    def html(self) -> Path:
        return self.build / "html"

    def show(self, path: Path) -> str:
        """``path`` as a reader of messages knows it: from the root, with slashes."""
        return path.relative_to(self.root).as_posix()


def git(root: Path, *arguments: str) -> str:
    """What git answers, or an empty string outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit(root: Path) -> str:
    """The commit the tree stands at; ``+`` marks changes that are not committed."""
    name = git(root, "rev-parse", "--short=12", "HEAD")
    if not name:
        return "unknown"
    return name + ("+" if git(root, "status", "--porcelain") else "")
