"""What a result was computed with: commit, versions, platform."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

#: The packages that decide a number, besides the project's own files.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "decord", "av")
PROJECT = Path(__file__).resolve().parents[2]


def git(root: Path, *arguments: str) -> str:
    """What git answers in ``root``; empty without git or outside a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit(root: Path = PROJECT) -> str:
    """The commit of the checkout at ``root``: twelve digits; ``+``: changes on top.

    Stored results are no change: runs write them while they say where they were made.

    ``"unknown"`` where ``root`` is not itself the top of a repository, such as an
    installed copy inside somebody else's.
    """
    top = git(root, "rev-parse", "--show-toplevel")
    name = git(root, "rev-parse", "--short=12", "HEAD")
    if not name or Path(top).resolve() != root.resolve():
        return "unknown"
    changed = git(root, "status", "--porcelain", "--", ".", ":!book/results")
    return name + ("+" if changed else "")


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python and the installed ones of ``names``, with their versions."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, str | int]:
    """Versions, platform, threads of torch and commit of this process."""
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "commit": commit(),
        **versions(),
    }
