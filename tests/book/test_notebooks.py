"""The chapters are clean, share one shape, and quote only what they have computed."""

import ast
import json
import re
from collections import Counter

import nbformat
import pytest
from tiny_book import ROOT

from book.builder import parameters, sources
from book.builder.project import Project

PROJECT = Project(ROOT)
PATHS = sorted(PROJECT.notebooks.glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
TAGS = {
    *("bootstrap", "parameters", "check", "solution", "timing"),
    *("hide-input", "hide-output", "hide-cell", "remove-input"),
}
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def prose(name):
    cells = NOTEBOOKS[name].cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def code(name):
    cells = NOTEBOOKS[name].cells
    return "\n".join(c.source for c in cells if c.cell_type == "code")


def test_all_chapters_are_clean_and_in_the_table_of_contents():
    assert [source.name for source in sources.load(PROJECT)]


def test_the_first_page_names_every_chapter():
    text = (PROJECT.book / "intro.md").read_text()
    table = text.partition("## The chapters")[2]
    named = re.findall(r"^\| \{doc\}`/notebooks/(\w+)`", table, re.M)
    assert named == sources.chapters(PROJECT)


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_every_parameter_set_fits_the_chapters(name):
    defaults = {source.name: source.defaults for source in sources.load(PROJECT)}
    path = PROJECT.notebooks / "params" / f"{name}.yaml"
    values, cell_timeout = parameters.read_set(path, defaults)
    assert values.keys() == defaults.keys()
    assert cell_timeout > 0


@each_notebook
def test_a_chapter_opens_and_closes_like_the_others(name):
    first = NOTEBOOKS[name].cells[0].source.splitlines()
    label = re.match(r"(\d\d|a\d)_", name)[1]
    label = label if label.startswith("a") else f"ch{label}"
    assert first[0] == f"({label})="
    assert first[1].startswith("# ")
    heads = re.findall(r"^##? .*", prose(name), re.MULTILINE)
    assert [h for h in heads if h.startswith("# ")] == [first[1]]
    assert heads[1] == "## At a glance"
    last = ["## In practice", "## Exercises", "## What we checked", "## Provenance"]
    assert heads[-4:] == last
    assert "report.provenance(" in NOTEBOOKS[name].cells[-1].source


@each_notebook
def test_a_chapter_checks_itself_and_solves_its_exercises(name):
    cells = NOTEBOOKS[name].cells
    tags = Counter(tag for cell in cells for tag in sources.tags(cell))
    assert not set(tags) - TAGS
    assert tags["check"] >= 1
    assert tags["solution"] >= 1
    for cell in cells:
        own = sources.tags(cell)
        if "check" in own:
            assert re.search(r"\bassert\b|assert_\w+\(|AssertionError", cell.source), (
                cell.id
            )
        if "solution" in own:
            assert "hide-cell" in own
            assert cell.source.startswith("# Solution"), cell.id


@each_notebook
def test_a_chapter_can_be_opened_by_any_python_kernel(name):
    metadata = NOTEBOOKS[name].metadata
    assert metadata["kernelspec"]["name"] == "python3"
    assert metadata["kernelspec"]["language"] == "python"
    ids = [cell.id for cell in NOTEBOOKS[name].cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*", word) for word in ids)


@each_notebook
def test_a_chapter_shows_things_only_with_words(name):
    assert not re.search(r"\bplt\.show|\.savefig\(|ipywidgets", code(name))
    for call in re.findall(r"report\.show\((?:[^()]|\([^()]*\))*\)", code(name)):
        assert "alt" in call, call


@each_notebook
def test_a_chapter_that_is_opened_alone_makes_its_data(name):
    assert "load_benchmark(" not in code(name)


def glued():
    """Names that chapters glue, by chapter; a name made by a loop counts as prefix."""
    found = {}
    for name in NOTEBOOKS:
        calls = re.findall(r'report\.glue\(\s*(f?)"([^"]+)"', code(name))
        found[name] = {
            re.sub(r"\\\{.*?\\\}", ".+", re.escape(text)) if formatted else text
            for formatted, text in calls
        }
    return found


def quotes():
    """Every quoted value of every page: (page, chapter it comes from, name, format)."""
    pages = {path.stem: path.read_text() for path in PROJECT.book.glob("*.md")}
    pages |= {name: prose(name) for name in NOTEBOOKS}
    for page, text in pages.items():
        for quoted in re.findall(r"\{glue:text\}`([^`]+)`", text):
            source, _, rest = quoted.rpartition("::")
            key, _, form = rest.partition(":")
            chapter = re.sub(r".*/|\.ipynb$", "", source) if source else page
            yield page, chapter, key, form


def test_every_quoted_number_is_computed_and_has_a_format():
    known = glued()
    quoted = list(quotes())
    assert quoted
    for page, chapter, key, form in quoted:
        where = f"{page}: {key}"
        assert form, f"{where} has no format"
        assert any(re.fullmatch(pattern, key) for pattern in known[chapter]), where


def test_glued_names_are_unique_in_the_book():
    names = Counter(name for found in glued().values() for name in found)
    assert [name for name, count in names.items() if count > 1] == []


@each_notebook
def test_a_chapter_fits_its_values_to_the_machine_when_run_by_hand(name):
    cells = NOTEBOOKS[name].cells
    places = [i for i, cell in enumerate(cells) if "parameters" in sources.tags(cell)]
    assert cells[places[0]].source.startswith('size = "auto"')
    following = cells[places[0] + 1]
    assert f'fit_to_machine("{name}", globals())' in following.source
    assert sources.tags(following) == ["remove-input"]


#: Chapters that run no model, or only such small ones that they need no device.
WITHOUT_DEVICE = {
    "01_task_and_data",
    "02_contrastive_learning",
    "11_flops",
    "13_one_ground",
    "a2_checkpoints",
    "a3_how_we_know",
}


@each_notebook
def test_a_chapter_that_runs_a_model_can_run_it_on_a_gpu(name):
    source = next(s for s in sources.load(PROJECT) if s.name == name)
    if name in WITHOUT_DEVICE:
        assert "device" not in source.defaults
        assert '"device": "cpu"' in NOTEBOOKS[name].cells[-1].source
    else:
        assert source.defaults["device"] == "auto"
        assert '"device": device' in NOTEBOOKS[name].cells[-1].source


@each_notebook
def test_a_chapter_hides_no_progress(name):
    assert "progress=False" not in code(name)


@each_notebook
def test_a_chapter_is_small(name):
    content = json.dumps(NOTEBOOKS[name])
    assert len(content) < 200_000


def helpers(source):
    """Names of the functions and classes that some code defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(source).body if isinstance(node, kinds)}


def test_no_two_chapters_define_a_helper_of_one_name():
    owners = {}
    for name, notebook in NOTEBOOKS.items():
        for cell in notebook.cells:
            if cell.cell_type == "code" and "bootstrap" not in sources.tags(cell):
                for helper in helpers(cell.source):
                    owners.setdefault(helper, set()).add(name)
    common = {helper: found for helper, found in owners.items() if len(found) > 1}
    assert common == {}
