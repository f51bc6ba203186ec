"""Imports go one way, heavy packages have one home, and the package is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "glscl"
# Lower layers never import higher ones; leaves are imported by nobody.
LAYERS = {
    "config": 0,
    "shapes": 0,
    "numeric": 0,
    "parallel": 0,
    "means": 1,
    "rerank": 1,
    "gim": 1,
    "lim": 1,
    "losses": 1,
    "temporal": 1,
    "metrics": 1,
    "data": 1,
    "backbone": 2,
    "pretrain": 3,
    "weights": 3,
    "retriever": 3,
    "model": 3,
    "eercf": 3,
    "glccl": 3,
    "methods": 4,
    "optim": 4,
    "evaluate": 4,
    "siblings": 5,
    "train": 5,
    "runs": 6,
    "ablate": 6,
    "reproduce": 7,
    "search": 4,
    "heads": 4,
    "flops": 5,
    "plots": 9,
    "diagrams": 9,
    "listen": 9,
    "report": 9,
    "cli": 9,
}
LEAVES = {"plots", "diagrams", "listen", "report", "cli"}
# The exceptions: what shows a drawing asks what draws it, and all share one palette.
ALLOWED = {
    ("report", "plots"),
    ("report", "diagrams"),
    ("report", "listen"),
    ("diagrams", "plots"),
    ("listen", "plots"),
}
HOMES = {
    "matplotlib": {"plots"},
    "seaborn": {"plots"},
    "IPython": {"report"},
    "fvcore": {"flops"},
    "decord": {"data"},
    "open_clip": {"backbone"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    """The layer name of a file: its stem, or 'data' for the folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if parts[0] != "__init__" else ""


def imported(path):
    """Every absolute module name that a file imports, wherever in the file."""
    yield from imported_below(ast.parse(path.read_text()), path)


def imported_when_run(path):
    """As ``imported``, without what only the type checker reads."""
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    yield from imported_below(tree, path)


def imported_below(tree, path):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module == "glscl":
                yield from (f"glscl.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    here = module_of(path)
    if here == "":
        return  # the package itself only forwards names, lazily
    assert here in LAYERS, f"give {here} a layer"
    for name in imported(path):
        if not name.startswith("glscl."):
            continue
        there = name.split(".")[1]
        if there == here or there == "__version__":
            continue
        leaf = there in LEAVES and (here, there) not in ALLOWED
        assert not leaf, f"{here} imports the leaf {there}"
        assert LAYERS[there] <= LAYERS[here], f"{here} imports {there} above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_heavy_packages_have_one_home(path):
    for name in imported_when_run(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or module_of(path) in homes, f"{path.name}: {name}"


def test_decord_is_imported_by_frames_alone():
    users = [path.name for path in FILES if "decord" in set(imported(path))]
    assert users == ["frames.py"]


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, glscl; heavy = {'open_clip', 'decord', 'matplotlib', 'pandas', "
        "'torchvision', 'fvcore', 'IPython', 'timm', 'av', 'torch'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_an_unknown_attribute_is_refused():
    import glscl

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glscl.nothing
