"""The program that draws formulas, shipped with the pages so that they read offline."""

from importlib import metadata
from pathlib import Path

from book.builder.project import BuildError

NAME = "tex-svg.js"


def path() -> Path:
    """The single-file MathJax, from its package."""
    try:
        files = metadata.files("sphinx-mathjax-offline") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == NAME:
            return Path(str(file.locate()))
    raise BuildError(f"{NAME} not found: install the package sphinx-mathjax-offline.")
