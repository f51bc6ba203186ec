"""Tables about the build itself for the prose pages, made from the manifest.

A page contains a comment such as ``<!-- record: provenance -->``, see ``inserts.py``.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from book.builder import manifest, sources
from book.builder.project import BuildError, Project

#: Runs of earlier builds, stored in the repository by ``build.py record``.
STORED_RUNS = "runs.json"
#: The downloadable files of one chapter: suffix and name.
KINDS = {"ipynb": "notebook", "py": "script", "html": "page"}
#: The text between them is replaced in the published pages, see ``archive.py``.
ARCHIVE = ("<!-- archive -->", "<!-- /archive -->")


def make(project: Project, words: str) -> str:
    """The HTML of one record by its name."""
    makers = {
        "provenance": provenance,
        "status": status,
        "stored": stored,
        "downloads": downloads,
        "archive": archive,
        "bibtex": bibtex,
        "mini model": mini_model,
    }
    if words not in makers:
        raise BuildError(f"No record '{words}'; known: {', '.join(makers)}.")
    return makers[words](project)


def entries(project: Project) -> dict[str, manifest.Entry]:
    """The manifest of this build, in reading order."""
    found = manifest.load(project.build / "manifest.json")
    return {name: found[name] for name in sources.chapters(project) if name in found}


def runs(project: Project) -> dict[str, dict[str, Any]]:
    """By chapter and parameter set: the last run of this build, else the stored one."""
    path = project.book / STORED_RUNS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = {name: stored.get(name, {}) for name in sources.chapters(project)}
    for name, entry in entries(project).items():
        last = {key: entry[key] for key in ("device", "seconds", "commit")}
        found[name] |= entry.get("runs", {}) | {entry["parameter_set"]: last}
    return found


def runtime(entry: Mapping[str, Any]) -> str:
    """The measured runtime of a chapter, with device and parameter set."""
    seconds = entry["seconds"]
    took = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
    chosen = f", parameters `{entry['parameter_set']}`"
    return f"{took} on {entry['device']}{chosen}"


def fill_runtime(notebook: Any, entry: Mapping[str, Any]) -> None:
    """Put the measured runtime between its two marks."""
    opening, closing = sources.RUNTIME
    pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = pattern.sub(lambda _: runtime(entry), cell.source)


def provenance(project: Project) -> str:
    """One row for each chapter, and below the table the whole manifest."""
    found = entries(project)
    rows = [
        (
            _link(project, name),
            _code(entry["parameter_set"]),
            html.escape(entry["device"]),
            f'<span class="nowrap">{entry["seconds"]:.1f} s</span>',
            _code(entry["commit"]),
            _code(entry["source"][:12]),
            _code(entry["output"][:12]),
        )
        for name, entry in found.items()
    ]
    head = ("chapter", "set", "device", "time", "commit", "source", "output")
    all_of_it = "".join(
        f"<details><summary>{title(project, name)}</summary>"
        f'<pre tabindex="0">{html.escape(_record_text(entry))}</pre></details>'
        for name, entry in found.items()
    )
    missing = [name for name in sources.chapters(project) if name not in found]
    without = f"<p>Not run in this build: {', '.join(missing)}.</p>" if missing else ""
    caption = "Inputs of each page; hashes are SHA-256, shortened"
    return table(caption, head, rows) + without + all_of_it


def status(project: Project) -> str:
    """The last run of each chapter under each parameter set, and what was never run."""
    sets = sorted(path.stem for path in (project.notebooks / "params").glob("*.yaml"))
    found = runs(project)
    rows = [
        (_link(project, name), *(_run(found[name].get(one)) for one in sets))
        for name in found
    ]
    everything = [run for of in found.values() for run in of.values()]
    sentences = [
        f"Never run with the parameters <code>{one}</code>: {_names(project, lacking)}."
        for one in sets
        if (lacking := [name for name in found if one not in found[name]])
    ]
    if all(run["device"].startswith("CPU") for run in everything):
        sentences.append("No chapter has been run on a GPU.")
    said = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    caption = "The last known run of each chapter under each set of parameters"
    return table(caption, ("chapter", *sets), rows) + f"<ul>{said}</ul>"


def stored(project: Project) -> str:
    """Stored results of long runs: command, device, versions and commit of each."""
    rows = []
    for path in sorted((project.book / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about = content.get("provenance", {})
        command = about.get("command") or content.get("command", "")
        gpu = about.get("gpu", "none")
        device = gpu if gpu != "none" else about.get("processor", about.get("platform"))
        versions = f"python {about.get('python')}, torch {about.get('torch')}"
        cells = (_code(path.name), _code(command), device or "", versions)
        commits = ", ".join(map(_short, about.get("commit", "").split(", ")))
        rows.append((*cells, _code(commits)))
    head = ("file", "command", "device", "versions", "commit")
    return table("Stored results that chapters read", head, rows)


def downloads(project: Project) -> str:
    """One row for each chapter with links to its downloadable files."""
    found = entries(project)
    rows = [
        (_link(project, name), *(link("../", name, kind) for kind in KINDS))
        for name in sources.chapters(project)
        if name in found
    ]
    return table("Single chapters", ("chapter", *KINDS.values()), rows)


def link(up: str, name: str, kind: str) -> str:
    """A link to a chapter's file; ``up``: path from the page to the root of the book."""
    address = f"{up}downloads/{name}.{kind}"
    label = f"{KINDS[kind]} of {name}"
    return f'<a href="{address}" download aria-label="{label}">{KINDS[kind]}</a>'


def archive(project: Project) -> str:
    """The sentence that ``archive.py`` replaces by a link outside the archive."""
    return f"{ARCHIVE[0]}<p>You are reading a copy of the book.</p>{ARCHIVE[1]}"


def bibtex(project: Project) -> str:
    """BibTeX entries of this project (from ``CITATION.cff``) and of the methods."""
    path = project.root / "CITATION.cff"
    cff = yaml.safe_load(path.read_text(encoding="utf-8"))
    authors = " and ".join(_author(one) for one in cff["authors"])
    fields = {
        "title": f"{{{cff['title']}}}",
        "author": authors,
        "version": cff["version"],
        "url": cff.get("repository-code"),
    }
    inside = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items() if v)
    own = f"@software{{glscl_book,\n{inside}\n}}"
    library = (project.book / "references.bib").read_text(encoding="utf-8")
    methods = [_bib_entry(library, key) for key in ("glscl", "eercf", "glccl")]
    return "".join(
        f'<div class="highlight"><pre tabindex="0">{html.escape(one)}\n</pre></div>'
        for one in (own, *methods)
    )


def _author(person: Mapping[str, str]) -> str:
    """A person as "Family, Given"; a group in braces, which BibTeX does not split."""
    if "name" in person:
        return f"{{{person['name']}}}"
    return f"{person['family-names']}, {person['given-names']}"


def _bib_entry(library: str, key: str) -> str:
    for entry in library.split("\n@"):
        if entry.lstrip("@").partition("{")[2].startswith(f"{key},"):
            return "@" + entry.lstrip("@").strip()
    raise BuildError(f"book/references.bib has no entry '{key}'.")


def title(project: Project, name: str) -> str:
    """The heading of a chapter."""
    first = sources.read(project.notebooks / f"{name}.ipynb").cells[0].source
    return next(x[2:] for x in first.splitlines() if x.startswith("# "))


def mini_model(project: Project) -> str:
    """How the model that comes with the package was trained, and its test table."""
    path = project.root / "glscl/mini/assets/glscl/config.json"
    record = json.loads(path.read_text(encoding="utf-8"))["record"]
    names = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR"}
    rows = [
        [row["direction"], row["captions"], str(row["queries"])]
        + [f"{row['low']:.1f} to {row['high']:.1f}"]
        + [f"{row[key]:.1f}" for key in names]
        for row in record["test"]
    ]
    head = ("direction", "captions", "queries", "95 % interval of R@1", *names.values())
    protocol = "".join(f"<li>{html.escape(line)}</li>" for line in record["protocol"])
    sizes = record["videos"]
    return (
        f"<p>It is the GLSCL that comes with the package, trained on {sizes['train']} "
        f"clips of the built-in benchmark and their captions in {record['epochs']} "
        f"epochs, with the seed {record['seed']}. None of the {sizes['test']} test clips "
        f"was used in training.</p><ul>{protocol}</ul>"
        + table("The model on the test clips", head, rows)
    )


def table(caption: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in the style of the chapters' tables; cells are HTML."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="glscl-table-box" role="group" tabindex="0" aria-label="{caption}"'
        f' style="overflow-x:auto"><table class="glscl-table"><caption>{caption}'
        f"</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _run(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "not run"
    took = f"{run['seconds']:.0f} s on {html.escape(run['device'])}"
    return f"{took}, at {_code(run['commit'])}"


def _record_text(entry: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in entry.items() if key != "runs"}
    return json.dumps(shown, indent=1, ensure_ascii=False)


def _short(commit: str) -> str:
    """Twelve digits, and a plus for uncommitted changes."""
    name, _, dirty = commit.partition("-")
    return name[:12] + ("+" if dirty else "")


def _names(project: Project, names: list[str]) -> str:
    if len(names) == len(sources.chapters(project)):
        return "every chapter"
    return ", ".join(_link(project, name) for name in names)


def _link(project: Project, name: str) -> str:
    return f'<a href="../notebooks/{name}.html">{title(project, name)}</a>'


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"
