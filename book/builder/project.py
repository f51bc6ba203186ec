"""The folders of a checkout, and the error of a failed build."""

from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """Bad input or a failed step; the message says what, where, and what was expected."""


@dataclass(frozen=True)
class Project:
    """The folders of one checkout; all generated files are in ``_build``."""

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
        """``path`` for messages: relative to the root, with slashes."""
        return path.relative_to(self.root).as_posix()
