"""Which files of this project some Python code depends on, and hashes of files."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

#: Packages of this project that pages and tests may import.
PROJECT_PACKAGES = ("glscl", "book", "benchmarks")


def module_name(path: Path, root: Path) -> str:
    """``glscl/data/frames.py`` as ``glscl.data.frames``, a folder by its own name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str, root: Path) -> Path | None:
    """The file of a module of this project, or None for what is not one."""
    place = root.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def modules_in(code: str, root: Path, types: bool = True) -> set[str]:
    """Every absolute module that ``code`` imports, wherever in it.

    ``from glscl.data import frames`` is ``glscl.data.frames`` where that is a file, and
    ``from glscl import GLSCL`` whatever file the package loads it from. ``types``:
    whether what only a type checker reads counts.
    """
    tree = ast.parse(code)
    if not types:
        tree.body = [node for node in tree.body if not _is_for_types(node)]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found.add(_origin(str(node.module), alias.name, root))
    return found


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _origin(module: str, name: str, root: Path) -> str:
    if module.split(".")[0] in PROJECT_PACKAGES:
        if file_of(f"{module}.{name}", root):
            return f"{module}.{name}"
        if module == "glscl":
            return _lazy_names(root).get(name, module)
    return module


@lru_cache(maxsize=4)
def _lazy_names(root: Path) -> dict[str, str]:
    """Names that ``import glscl`` gives on first use, with the modules they are in."""
    for node in ast.parse((root / "glscl/__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODELS":
            return ast.literal_eval(node.value)
    return {}


def files_behind(code: str, root: Path) -> set[Path]:
    """Every file of this project that ``code`` imports, directly or indirectly.

    ``import glscl`` may load any model on first use, so it counts as all of them.
    """
    found: set[Path] = set()
    waiting = list(_files(code, root))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _files(path.read_text(encoding="utf-8"), root)
    return found


def _files(code: str, root: Path) -> Iterator[Path]:
    for module in modules_in(code, root, types=False):
        if module.split(".")[0] not in PROJECT_PACKAGES:
            continue
        names = [module]
        if module == "glscl":
            names += _lazy_names(root).values()
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):  # folders run their __init__ first
                path = file_of(".".join(parts[:end]), root)
                if path is not None:
                    yield path


def digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over names and contents of files and of all files below folders."""
    total = hashlib.sha256()
    for file in sorted(set(_below(paths))):
        total.update(file.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _below(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (f for f in files if f.is_file() and "__pycache__" not in f.parts)
