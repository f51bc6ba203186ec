"""A book of two cells a chapter, made in a temporary folder for the builder's tests."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.builder.project import Project

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = 'seed = 0  # of everything\nname = "a"  # a word\nrate = 0.5  # a share\n'
GLANCE = (
    "(ch01)=\n# A chapter\n\n## At a glance\n\n"
    "- **Time.** <!-- runtime -->measured later<!-- /runtime -->\n\n"
    "A formula $x^2$, and a number: {glue:text}`ch01_twice:.1f`.\n"
)
BODY = """\
import glscl.part
from IPython.display import display

key = "application/papermill.record/text/plain"
about = {"name": "ch01_twice", "mime_prefix": "application/papermill.record/"}
display({key: str(2 * seed)}, raw=True, metadata={"scrapbook": about})
print("seed", seed)
"""


def chapter(body: str = BODY, parameters: str = PARAMETERS, tag: str = ""):
    """A chapter with all that is compulsory, and ``body`` as its last cell."""
    bootstrap = (ROOT / "book/bootstrap.py").read_text().strip()
    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook = new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [
        new_markdown_cell(GLANCE, id="glance"),
        new_code_cell(bootstrap, id="bootstrap", metadata={"tags": ["bootstrap"]}),
        new_code_cell(parameters, id="values", metadata={"tags": ["parameters"]}),
        new_code_cell(body, id="body", metadata={"tags": [tag] if tag else []}),
    ]
    return notebook


def write_chapter(project: Project, name: str, notebook) -> Path:
    path = project.notebooks / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def write_set(project: Project, name: str = "smoke", **content) -> Path:
    path = project.notebooks / "params" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def tiny_book(root: Path, chapters: Mapping[str, object]) -> Project:
    """A project with these chapters, the real configuration and one prose page."""
    for folder in ("book/_static", "book/results", "notebooks/params", "glscl"):
        (root / folder).mkdir(parents=True)
    (root / "glscl/__init__.py").write_text('"""Stands for the package."""\n')
    (root / "glscl/part.py").write_text('"""What the chapters import."""\n')
    (root / "glscl/search").mkdir()
    (root / "glscl/search/__init__.py").write_text('"""What no chapter imports."""\n')
    (root / "book/paper_numbers.yml").write_text("{}\n")
    (root / "book/intro.md").write_text("# A book\n\nOf {cite}`someone`.\n")
    (root / "book/references.md").write_text("# References\n\n```{bibliography}\n```\n")
    (root / "book/references.bib").write_text(
        "@misc{someone, title={Title}, author={Some One}, year={2020}}\n"
    )
    for pattern in ("*.css", "*.js", "*.svg"):
        for path in (ROOT / "book/_static").glob(pattern):
            shutil.copyfile(path, root / "book/_static" / path.name)
    shutil.copyfile(ROOT / "book/bootstrap.py", root / "book/bootstrap.py")
    shutil.copyfile(ROOT / "_config.yml", root / "_config.yml")
    files = [f"notebooks/{name}" for name in chapters] + ["book/references"]
    contents = {
        "format": "jb-book",
        "root": "book/intro",
        "chapters": [{"file": file} for file in files],
    }
    (root / "_toc.yml").write_text(yaml.safe_dump(contents))
    project = Project(root)
    for name, notebook in chapters.items():
        write_chapter(project, name, notebook)
    write_set(project, cell_timeout=60, common={"seed": 3})
    return project
