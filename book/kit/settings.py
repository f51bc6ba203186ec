"""Values of a notebook's parameters that depend on where it runs by hand.

The build gives every value itself and says so by ``size = "given"``; then nothing here
changes any.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GIVEN = "given"
#: Parameters that name where results go, and so move into the folder ``save_to``.
PLACES = ("run_root", "records")
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def automatic_size() -> str:
    """The parameter set for this machine: ``"gpu"`` with CUDA, else ``"cpu"``."""
    # Imported late: the build reads names of this file and needs no torch.
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def fit_to_machine(chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What to change in the parameters ``values`` of a notebook that is run by hand.

    ``values["size"]`` names a parameter set of ``notebooks/params``, or is ``"auto"``;
    its values replace those that are still the defaults of ``chapter``, so what was
    changed by hand stays. With ``save_to`` results go into that folder; one on Google
    Drive is mounted first. Prints what changes. ``ValueError`` for an unknown size.
    """
    if values["size"] == GIVEN:
        return {}
    size = automatic_size() if values["size"] == "auto" else values["size"]
    chosen = _set(size, chapter)
    defaults = _defaults(chapter)
    changes = {
        name: value
        for name, value in chosen.items()
        if name in defaults and values[name] == defaults[name] != value
    }
    if values.get("save_to"):
        folder = _folder(values["save_to"])
        changes |= {
            n: str(folder / Path(values[n]).name) for n in PLACES if n in values
        }
    said = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
    print(f"Size {size}: {said or 'all values as above'}")
    return changes


def _set(size: str, chapter: str) -> dict[str, Any]:
    """The values that a parameter set has for a chapter."""
    import yaml

    path = NOTEBOOKS / "params" / f"{size}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ValueError(f"size is 'auto' or one of {known}, got {size!r}.")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = content.get("notebooks") or {}
    return (content.get("common") or {}) | (own.get(chapter) or {})


def _defaults(chapter: str) -> dict[str, Any]:
    """The parameters of a chapter as its notebook in the project has them."""
    notebook = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    cells = notebook["cells"]
    (cell,) = (c for c in cells if "parameters" in c["metadata"].get("tags", ()))
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse("".join(cell["source"])).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _folder(place: str) -> Path:
    """The folder for results, made if need be."""
    folder = Path(place)
    if folder.is_relative_to("/content/drive") and "google.colab" in sys.modules:
        from google.colab import drive

        drive.mount("/content/drive")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
