"""MathJax, which draws the formulas, as a file of the book: no network is needed."""

from importlib import metadata
from pathlib import Path

from book.builder.project import BuildError

NAME = "tex-svg.js"


def path() -> Path:
    """The single-file MathJax of the package sphinx-mathjax-offline."""
    try:
        files = metadata.files("sphinx-mathjax-offline") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == NAME:
            return Path(str(file.locate()))
    raise BuildError(f"{NAME} not found: install the package sphinx-mathjax-offline.")
