"""The chapters are clean, share one shape, and quote only what they have computed."""

import json
import re
import subprocess
import sys
from collections import Counter

import nbformat
import pytest
from packaging.requirements import Requirement
from tiny_book import ROOT

from book import colab
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
    assert heads[-3:] == ["## Exercises", "## What we checked", "## Provenance"]
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


# ---- the cell that opens every notebook --------------------------------------------


def opened(folder, code):
    """Run the opening cell and then ``code`` as a fresh interpreter in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
    )


BOOTSTRAP = (ROOT / "book/bootstrap.py").read_text()
SAY = "\nprint(os.getcwd(), sys.path[0])"


def test_the_opening_cell_finds_the_project_from_inside_it():
    done = opened(ROOT / "notebooks", BOOTSTRAP + SAY)
    assert done.stdout.split() == [str(ROOT), str(ROOT)], done.stderr


def test_the_opening_cell_says_that_there_is_no_project(tmp_path):
    done = opened(tmp_path, BOOTSTRAP)
    assert done.returncode != 0
    assert f"No checkout of the project at or above {tmp_path}" in done.stderr


PRETEND = "import sys, types; sys.modules['google.colab'] = types.ModuleType('c')\n"


@pytest.fixture
def published(tmp_path):
    """A small git repository that stands for the published project."""
    folder = tmp_path / "published"
    (folder / "book").mkdir(parents=True)
    (folder / "_toc.yml").touch()
    setup = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (folder / "book/colab.py").write_text(setup)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def test_on_colab_the_project_is_fetched_once_and_set_up(tmp_path, published):
    cell = BOOTSTRAP.replace('REPOSITORY = ""', f'REPOSITORY = "{published}"')
    content = tmp_path / "content"
    content.mkdir()
    for _ in range(2):  # a second time after a restart of the runtime
        done = opened(content, PRETEND + cell + SAY)
        assert done.stdout.split()[0] == str(content / "glscl-book"), done.stderr
        assert (content / "glscl-book/book/ran").is_file()


def test_on_colab_an_unknown_address_is_asked_for(tmp_path):
    done = opened(tmp_path, PRETEND + BOOTSTRAP)
    assert done.returncode != 0
    assert "Set REPOSITORY above to the git address" in done.stderr


@pytest.fixture
def runtime(monkeypatch):
    """Colab's installed packages, as this test says."""
    versions = {"torch": "2.6.0+cu124", "numpy": "2.0.2", "tqdm": "4.60"}
    monkeypatch.setattr(colab, "installed", versions.get)
    return versions


def test_colab_gets_what_is_missing_or_too_old_and_nothing_else(runtime):
    wanted = [
        Requirement(text)
        for text in (
            "torch>=2.4",
            "numpy>=1.26",
            "tqdm>=4.66",
            "decord>=0.6",
            "elsewhere>=1; platform_system == 'Nowhere'",
        )
    ]
    assert colab.missing(wanted) == ["tqdm>=4.66", "decord>=0.6"]


def test_colab_keeps_its_torch(runtime, monkeypatch):
    calls = []

    def run(command):
        constraints = command[command.index("-c") + 1].read_text().split()
        calls.append((command, constraints))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(colab.subprocess, "run", run)
    assert colab.main() == 0
    command, constraints = calls[0]
    assert constraints == ["torch==2.6.0+cu124", "numpy==2.0.2"]
    assert not any(str(word).startswith(("torch", "numpy")) for word in command)


def test_colab_refuses_rather_than_replace_an_old_torch(runtime, capsys):
    runtime["torch"] = "1.13"
    assert colab.main() == 1
    assert "torch>=2.4 is missing or too old" in capsys.readouterr().err


def test_colab_knows_what_the_notebooks_import():
    names = {requirement.name for requirement in colab.wanted(ROOT / "pyproject.toml")}
    assert {"torch", "open_clip_torch", "decord", "matplotlib", "pandas"} <= names
    assert "jupyter-book" not in names


@each_notebook
def test_a_chapter_is_small(name):
    content = json.dumps(NOTEBOOKS[name])
    assert len(content) < 200_000
