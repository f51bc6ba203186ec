"""Imports go one way, heavy packages have one home, and the package is light."""

import subprocess
import sys
from pathlib import Path

import pytest

from book.builder.imports import module_name, modules_in

ROOT = Path(__file__).resolve().parents[1]
# A line imports what stands in lines above it, and in its own.
ORDER = """
util
config gim lim losses temporal metrics
backbone data
weights retriever
model eercf glccl heads
optim evaluate train
mini
runs
search
cli
"""
LEVELS = {room: n for n, line in enumerate(ORDER.split("\n")) for room in line.split()}
# Where a package that is heavy or tied to a platform may be imported.
HOMES = {
    "matplotlib": "book.kit",
    "IPython": "book.kit",
    "fvcore": "book.experiments.counters",
    "decord": "glscl.data.decoders",
    "open_clip": "glscl.backbone",
}
FILES = [
    path
    for folder in (
        "glscl",
        "book/kit",
        "book/experiments",
        "book/builder",
        "benchmarks",
    )
    for path in sorted((ROOT / folder).rglob("*.py"))
]
NAMES = [module_name(path, ROOT) for path in FILES]
PAIRS = list(zip(FILES, NAMES, strict=True))


@pytest.mark.parametrize(("path", "name"), PAIRS, ids=NAMES)
def test_imports_go_one_way(path, name):
    package, _, rest = name.partition(".")
    if package != "glscl" or not rest:
        return  # the book may import all; the package itself forwards names, lazily
    here = rest.split(".")[0]
    for imported in modules_in(path.read_text(), ROOT):
        assert imported.split(".")[0] != "book", f"{name} imports {imported}"
        if imported.startswith("glscl."):
            there = imported.split(".")[1]
            assert LEVELS[there] <= LEVELS[here], f"{name} imports {imported} above it"


def test_no_two_modules_import_each_other():
    graph = {
        name: {
            n for n in modules_in(path.read_text(), ROOT) if n in NAMES and n != name
        }
        for path, name in PAIRS
    }
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {n: i - leaves for n, i in graph.items() if n not in leaves}
    assert not graph, f"these stand in a circle: {sorted(graph)}"


@pytest.mark.parametrize(("path", "name"), PAIRS, ids=NAMES)
def test_heavy_packages_have_one_home(path, name):
    if not name.startswith(("glscl", "book.kit", "book.experiments")):
        return
    for imported in modules_in(path.read_text(), ROOT, types=False):
        home = HOMES.get(imported.split(".")[0])
        assert home is None or f"{name}.".startswith(f"{home}."), f"{name}: {imported}"


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


def test_dir_lists_the_models_and_the_rooms():
    import glscl

    assert {"GLSCL", "EERCF", "GLCCL", "gim", "search"} <= set(dir(glscl))
    for name in dir(glscl):
        assert getattr(glscl, name) is not None
