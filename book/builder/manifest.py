"""The record of each notebook's inputs, by which unchanged notebooks are not run again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from book.builder.imports import digest, files_behind
from book.builder.parameters import Values
from book.builder.project import BuildError, Project
from book.builder.sources import Source
from glscl.util.files import write_json

FORMAT = 1
INPUTS = ("book/paper_numbers.yml", "book/results")
Entry = dict[str, Any]


def inputs_of(project: Project, source: Source, values: Values) -> Entry:
    """Digests of all inputs of a notebook: it is run again when one of them changes."""
    return {
        "source": digest([source.path], project.root),
        "code": code_digests(project.root, source.code),
        "inputs": digest([project.root / name for name in INPUTS], project.root),
        "parameters": values,
    }


def code_digests(root: Path, code: str) -> dict[str, str]:
    """For each folder, a digest of its files that ``code`` depends on.

    The weights and the vocabulary of the mini CLIP count for every chapter.
    """
    members: dict[str, list[Path]] = {"glscl/mini/assets": [root / "glscl/mini/assets"]}
    for path in files_behind(code, root):
        folder = path.parent.relative_to(root).as_posix()
        members.setdefault(folder, []).append(path)
        members[folder] += [*path.parent.glob("assets"), *path.parent.glob("*.yaml")]
    return {name: digest(paths, root) for name, paths in sorted(members.items())}


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
    write_json(path, content)


def stale(recorded: Entry | None, now: Entry, output: Path, root: Path) -> str:
    """Why a notebook must be run again, or an empty string if it is up to date."""
    if recorded is None or not output.is_file():
        return "not run yet"
    changed = [
        folder
        for folder, found in now["code"].items()
        if recorded.get("code", {}).get(folder) != found
    ]
    if changed:
        return f"{', '.join(changed)} changed"
    names = {
        "source": "the notebook changed",
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
