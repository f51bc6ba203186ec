"""What each page was made from: the record that lets unchanged notebooks stay."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .parameters import Values
from .project import BuildError, Project
from .sources import Source

FORMAT = 1
# What decides the numbers on a page, besides our own files.
RECORDED = ("torch", "torchvision", "open_clip_torch", "numpy", "decord", "av")
INPUTS = ("book/paper_numbers.yml", "book/results")
Entry = dict[str, Any]


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


def versions(names: Iterable[str] = RECORDED) -> dict[str, str]:
    """Python and the installed ones of ``names``, with their versions."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def ingredients(project: Project, source: Source, values: Values) -> Entry:
    """Everything whose change makes a page stale."""
    return {
        "source": digest([source.path], project.root),
        "package": digest([project.root / "glscl"], project.root),
        "inputs": digest([project.root / name for name in INPUTS], project.root),
        "parameters": values,
    }


def load(path: Path) -> dict[str, Entry]:
    """The entries by notebook; none when there is no manifest yet."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return content["notebooks"]
    except (ValueError, KeyError, TypeError):
        pass
    raise BuildError(f"{path} is not a manifest of format {FORMAT}; delete it.")


def save(path: Path, entries: Mapping[str, Entry]) -> None:
    content = {"format": FORMAT, "notebooks": dict(sorted(entries.items()))}
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def stale(recorded: Entry | None, now: Entry, output: Path, root: Path) -> str:
    """Why a page must be made again, or an empty string when it may stay."""
    if recorded is None or not output.is_file():
        return "not run yet"
    names = {
        "source": "the notebook changed",
        "package": "glscl/ changed",
        "inputs": "book/results or paper_numbers.yml changed",
        "parameters": "the parameters changed",
        "versions": "the installed versions changed",
    }
    for key, reason in names.items():
        if key in now and recorded.get(key) != now[key]:
            return reason
    if recorded.get("output") != digest([output], root):
        return "the executed copy was altered"
    return ""
