"""Render the pages: copy all sources into a staging folder, run Jupyter Book on it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from book.builder import (
    address,
    archive,
    claims,
    downloads,
    inserts,
    manifest,
    mathjax,
    outputs,
    pictures,
    playground,
    records,
    sources,
    visible,
    web,
)
from book.builder.imports import digest, file_of
from book.builder.project import BuildError, Project
from book.kit.provenance import versions

HERE = Path(__file__).resolve().parent
TOOLS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme")
GLUED = re.compile(r"\{glue:text\}`(?:/notebooks/(\w+)\.ipynb::)?[^`]+`")
DOCUMENTED = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)


def configuration(project: Project) -> dict[str, Any]:
    """``_config.yml`` with launch and repository buttons if the address allows them.

    The launch buttons open the branch of the notebooks that are made for Colab.
    """
    path = project.root / "_config.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    url = address.repository(project)
    # Jupyter Book's own default is the address of Jupyter Book.
    config["repository"] = {"branch": address.COLAB_BRANCH, "url": url}
    if url:
        config.setdefault("html", {})["use_repository_button"] = True
    if address.pages(project):
        config.setdefault("html", {})["baseurl"] = address.pages(project)
    if address.on_colab(project):
        config["launch_buttons"] = {"colab_url": address.COLAB}
    return config


def stage(project: Project, entries: Mapping[str, manifest.Entry]) -> Path:
    """Copy all sources of the pages into the staging folder; returns the folder.

    Paths are those of the repository, so that links from a page to its source are
    right. Notebooks without an executed copy are shown as they are committed, and pages
    that quote their numbers say that they were not run.
    """
    tree = project.build / "stage"
    run = {x for x in entries if (project.executed / f"{x}.ipynb").is_file()}
    known = claims.records(project)
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "book").mkdir(parents=True)
    for path in sorted(project.book.iterdir()):
        if path.suffix == ".md":
            page = inserts.fill(project, path.name, path.read_text(encoding="utf-8"))
            page = claims.put_badges(mark_missing_values(page, run), known)
            (tree / "book" / path.name).write_text(page, encoding="utf-8")
        elif path.suffix in (".bib", ".yml"):
            shutil.copyfile(path, tree / "book" / path.name)
    shutil.copytree(project.book / "_static", tree / "book/_static")
    shutil.copyfile(mathjax.path(), tree / "book/_static" / mathjax.NAME)
    playground.add(project, tree / "book")
    shutil.copyfile(project.root / "_toc.yml", tree / "_toc.yml")
    config = yaml.safe_dump(configuration(project), sort_keys=True, allow_unicode=True)
    (tree / "_config.yml").write_text(config, encoding="utf-8")
    for name in sources.chapters(project):
        shown = name in run
        notebook = sources.read(
            (project.executed if shown else project.notebooks) / f"{name}.ipynb"
        )
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                said = mark_missing_values(cell.source, run, name)
                cell.source = claims.put_badges(said, known)
        if shown:
            downloads.add_links(notebook, name)
            records.fill_runtime(notebook, entries[name])
        sources.write(visible.fold(notebook), tree / "notebooks" / f"{name}.ipynb")
    return tree


def mark_missing_values(text: str, run: Collection[str], chapter: str = "") -> str:
    """``text`` with "(not run)" for the glued values of chapters not in ``run``.

    A value without the name of a chapter is of ``chapter``.
    """
    return GLUED.sub(
        lambda quoted: quoted[0] if (quoted[1] or chapter) in run else "(not run)", text
    )


def documented_files(tree: Path, root: Path) -> set[Path]:
    """The files of the modules whose docstrings the staged pages below ``tree`` show."""
    pages = [path.read_text(encoding="utf-8") for path in tree.glob("book/*.md")]
    names = {name for page in pages for name in DOCUMENTED.findall(page)}
    return {path for name in names if (path := file_of(name, root))}


def render(project: Project, tree: Path, strict: bool) -> bool:
    """Build the pages unless they are up to date; whether they were built.

    ``strict``: warnings are errors. The new pages replace the old ones only after a
    successful build.
    """
    record = project.build / "site.json"
    now = {
        "stage": digest([tree], tree),
        "tools": versions(TOOLS),
        "builder": digest([HERE], HERE),
        "package": digest(documented_files(tree, project.root), project.root),
        "strict": strict,
    }
    index = project.html / "index.html"
    if index.is_file() and record.is_file() and json.loads(record.read_text()) == now:
        return False
    record.unlink(missing_ok=True)
    output = project.build / "site"
    shutil.rmtree(output, ignore_errors=True)
    gate = ["-W", "-n", "--keep-going"] if strict else []
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(tree), "--all", *gate]
    command += ["--path-output", str(output)]
    # Sphinx imports the project's package for its docstrings, and our extension.
    found_in = (project.root, HERE.parents[1])
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=project.root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, found_in))},
    )
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    (project.build / "site.log").write_text(log, encoding="utf-8")
    if done.returncode:
        lines = [x for x in log.splitlines() if re.search("WARNING|ERROR|Error:", x)]
        shown = "\n".join(lines or log.splitlines()[-20:])
        raise BuildError(
            f"{shown}\nJupyter Book failed (see above; the full log is _build/site.log)."
        )
    pages = output / "_build/html"
    if lost := list(outputs.check(tree, pages)):
        raise BuildError("\n".join(lost))
    pictures.shrink(pages)
    title = yaml.safe_load((tree / "_config.yml").read_text(encoding="utf-8"))["title"]
    web.describe(project, pages, title)
    downloads.write_all(project, pages / "downloads")
    web.add_server_files(project, pages, title)
    size = archive.write(pages)
    print(f" archive  {archive.NAME}: {size / 1e6:.1f} MB", flush=True)
    shutil.rmtree(project.html, ignore_errors=True)
    pages.replace(project.html)
    shutil.rmtree(output, ignore_errors=True)
    record.write_text(json.dumps(now), encoding="utf-8")
    return True
