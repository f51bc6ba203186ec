"""On Colab a notebook finds or fetches its project, and nothing installed is replaced."""

import json
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest
import yaml
from nbformat.v4 import new_markdown_cell
from packaging.requirements import Requirement
from tiny_book import ROOT, chapter, tiny_book

from book import colab
from book.builder import address, colab_notebooks, sources
from book.builder.project import BuildError

BOOTSTRAP = (ROOT / "book/bootstrap.py").read_text()
SAY = "\nprint(os.getcwd(), sys.path[0])"
PRETEND = "import sys, types; sys.modules['google.colab'] = types.ModuleType('c')\n"


def opened(folder, code):
    """Run the opening cell and then more code as a fresh interpreter in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def addressed(repository, commit=""):
    """The opening cell that knows where its project is."""
    cell = BOOTSTRAP.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    return cell.replace('COMMIT = ""', f'COMMIT = "{commit}"')


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", *identity, *words]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def published(tmp_path):
    """A small git repository that stands for the published project."""
    folder = tmp_path / "published"
    (folder / "book").mkdir(parents=True)
    for name in ("bootstrap.py", "__init__.py"):
        (folder / "book" / name).touch()
    (folder / "book/colab.py").write_text(
        "def main(expected):\n    print('completed, expected', expected)\n"
    )
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return folder


@pytest.fixture
def content(tmp_path):
    """The folder of a new runtime, in which only the notebook is."""
    folder = tmp_path / "content"
    folder.mkdir()
    return folder


def test_the_opening_cell_finds_the_project_from_inside_it():
    done = opened(ROOT / "notebooks", BOOTSTRAP + SAY)
    assert done.stdout.split() == [str(ROOT), str(ROOT)], done.stderr


def test_the_opening_cell_says_that_there_is_no_project(content):
    done = opened(content, BOOTSTRAP)
    assert done.returncode != 0
    assert f"No checkout of the project at or above {content}" in done.stderr


def test_the_project_is_fetched_once_and_completed_every_time(content, published):
    for _ in range(2):  # a second time after a restart of the runtime
        done = opened(content, PRETEND + addressed(published) + SAY)
        assert done.stdout.splitlines()[0] == "completed, expected ", done.stderr
        assert done.stdout.split()[-2] == str(content / "glscl-book")


def test_the_commit_of_the_notebook_is_fetched_not_the_newest(content, published):
    first = git(published, "rev-parse", "HEAD")
    (published / "later").touch()
    git(published, "add", ".")
    git(published, "commit", "-q", "-m", "y")
    cell = addressed(published.as_uri(), first)
    done = opened(content, PRETEND + cell)
    assert done.stdout == f"completed, expected {first}\n", done.stderr
    assert git(content / "glscl-book", "rev-parse", "HEAD") == first
    assert not (content / "glscl-book/later").exists()


def test_a_checkout_under_another_name_is_found_and_completed(content, published):
    git(content, "clone", "-q", published.as_uri(), "my-copy")
    done = opened(content, PRETEND + BOOTSTRAP + SAY)
    assert done.stdout.splitlines()[0] == "completed, expected ", done.stderr
    assert done.stdout.split()[-2] == str(content / "my-copy")


def test_off_colab_nothing_is_fetched_or_completed(content, published):
    done = opened(content, addressed(published))
    assert done.returncode != 0
    git(content, "clone", "-q", published.as_uri(), "my-copy")
    done = opened(content, BOOTSTRAP + SAY)
    assert done.stdout.split() == [str(content / "my-copy")] * 2


@pytest.mark.parametrize("top", ["", "name-main/"])
def test_without_an_address_an_uploaded_archive_works(content, published, top):
    done = opened(content, PRETEND + BOOTSTRAP)
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()[-1]
    assert "upload an archive of it" in said
    assert "run this cell again" in said
    (content / "pages.zip").write_bytes(b"no archive at all")
    with zipfile.ZipFile(content / "other.zip", "w") as other:
        other.writestr("index.html", "<p>")
    prefix = [f"--prefix={top}"] if top else []
    made = ["-o", str(content / "glscl.zip"), "HEAD"]
    git(published, "archive", *prefix, *made)
    done = opened(content, PRETEND + BOOTSTRAP + SAY)
    assert done.stdout.splitlines()[0] == "completed, expected ", done.stderr
    assert done.stdout.split()[-2] == str(content / "glscl-book" / top).rstrip("/")


# ---- what is installed -------------------------------------------------------------


@pytest.fixture
def runtime(monkeypatch):
    """Colab's installed packages, as this test says."""
    versions = {
        "torch": "2.6.0+cu124",
        "numpy": "2.0.2",
        "tqdm": "4.60",
        "python-apt": "2.4.0-ubuntu4~x",
        "pandas": "2.2.2",
    }
    monkeypatch.setattr(colab, "installed", lambda: dict(versions))
    return versions


def test_what_is_missing_or_too_old_is_installed_and_nothing_else(runtime):
    wanted = [
        Requirement(text)
        for text in (
            "torch>=2.4",
            "numpy>=1.26",
            "tqdm>=4.66",
            "decord>=0.6",
            "anything",
            "elsewhere>=1; platform_system == 'Nowhere'",
        )
    ]
    names = [one.name for one in colab.missing(wanted, runtime)]
    assert names == ["tqdm", "decord", "anything"]


def test_every_installed_version_is_kept(runtime, monkeypatch):
    calls = []

    def run(command, **options):
        with open(command[command.index("-c") + 1]) as file:
            calls.append((command, file.read().split()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(colab.subprocess, "run", run)
    colab.install()
    command, constraints = calls[0]
    # Not tqdm, which is too old, nor a version that pip cannot read.
    assert constraints == ["numpy==2.0.2", "pandas==2.2.2", "torch==2.6.0+cu124"]
    assert any(word.startswith("tqdm") for word in command)
    assert not any(word.startswith(("torch", "numpy", "pandas")) for word in command)


def test_an_old_torch_is_refused_rather_than_replaced(runtime):
    runtime["torch"] = "1.13"
    with pytest.raises(SystemExit, match=r"torch>=2\.4 is missing or too old"):
        colab.install()


def test_a_failed_installation_says_so(runtime, monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "no such version")

    monkeypatch.setattr(colab.subprocess, "run", run)
    with pytest.raises(
        SystemExit, match=r"pip could not install .*\n.*no such version"
    ):
        colab.install()


def test_what_the_notebooks_import_is_wanted_and_no_kernel():
    names = {requirement.name for requirement in colab.wanted(ROOT / "pyproject.toml")}
    assert {"torch", "open_clip_torch", "decord", "matplotlib", "pandas"} <= names
    assert not names & {"jupyter-book", "ipykernel", "papermill"}


def test_four_lines_say_what_a_notebook_runs_with(capsys, monkeypatch):
    monkeypatch.setattr(colab, "install", lambda: "nothing, all is there")
    colab.main("f" * 40)
    lines = capsys.readouterr().out.splitlines()
    starts = ["Installed: nothing", "Commit: ", "GPU: ", "Settings: notebooks/params/"]
    assert len(lines) == 4
    assert all(line.startswith(s) for line, s in zip(lines, starts, strict=True))
    if "unknown" not in lines[1]:
        assert lines[1].endswith("this notebook is of ffffffffffff")


# ---- the notebooks that the launch buttons open --------------------------------------

ADDRESS = "https://github.com/owner/name"


@pytest.fixture
def project(tmp_path):
    notebook = chapter()
    notebook.cells.insert(1, new_markdown_cell("See {cite}`someone`.", id="more"))
    project = tiny_book(tmp_path / "project", {"01_a": notebook})
    path = project.root / "_config.yml"
    config = yaml.safe_load(path.read_text())
    config["repository"]["url"] = ADDRESS
    path.write_text(yaml.safe_dump(config))
    list(sources.update_bootstrap(project))
    git(project.root, "init", "-q")
    git(project.root, "add", ".")
    git(project.root, "commit", "-q", "-m", "x")
    return project


def test_a_notebook_for_colab_is_plain_and_asks_for_a_gpu(project):
    commit = address.commit(project)
    folder = colab_notebooks.write_all(project)
    made = nbformat.read(folder / "notebooks/01_a.ipynb", as_version=4)
    nbformat.validate(made)
    assert made.metadata["accelerator"] == "GPU"
    assert made.metadata["colab"]["gpuType"] == "T4"
    text = "\n".join(c.source for c in made.cells if c.cell_type == "markdown")
    assert not re.search(r"\{[\w:]+\}`|^\([\w-]+\)=", text, re.MULTILINE)
    assert "One, 2020" in text
    opened = f"/github/owner/name/blob/{address.COLAB_BRANCH}/notebooks/01_a.ipynb"
    assert opened in made.cells[0].source
    (first,) = sources.tagged(made, "bootstrap")
    assert first.metadata["cellView"] == "form"
    assert first.source.startswith("# @title ")
    assert f'REPOSITORY = "{ADDRESS}"' in first.source
    assert f'COMMIT = "{commit}"' in first.source
    assert len(commit) == 40
    assert opened in (folder / "README.md").read_text()


def test_with_changed_files_no_commit_is_named(project):
    (project.book / "intro.md").write_text("# Changed\n")
    folder = colab_notebooks.write_all(project)
    content = json.loads((folder / "notebooks/01_a.ipynb").read_text())
    code = "".join("".join(cell["source"]) for cell in content["cells"])
    assert 'COMMIT = ""' in code


def test_the_build_fails_where_a_button_opens_what_cannot_start(project):
    folder = colab_notebooks.write_all(project)
    page = project.html / "notebooks/01_a.html"
    page.parent.mkdir(parents=True)
    button = colab_notebooks.link(project, "01_a")
    page.write_text(f'<a href="{button}">')
    colab_notebooks.check(project, folder)
    for wrong in (button.replace("01_a", "02_b"), button.replace("/colab/", "/main/")):
        page.write_text(f'<a href="{wrong}">')
        with pytest.raises(BuildError, match="which is not there"):
            colab_notebooks.check(project, folder)
    page.write_text(f'<a href="{button}">')
    notebook = folder / "notebooks/01_a.ipynb"
    notebook.write_text(notebook.read_text().replace(ADDRESS, ""))
    with pytest.raises(BuildError, match="does not know the project's address"):
        colab_notebooks.check(project, folder)
