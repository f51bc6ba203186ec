"""Build the book: ``python book/build.py --help``.

The notebooks in the repository are checked, run with the values of one parameter set,
cleaned of run metadata, copied into a staging folder together with the prose pages, and
rendered by Jupyter Book with warnings as errors. A notebook is run again only when one
of its inputs changed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from book.builder import (
    claims,
    colab_notebooks,
    execute,
    manifest,
    parameters,
    prose,
    records,
    shared,
    site,
    sources,
    tree,
    uncovered,
    visible,
)
from book.builder.imports import digest
from book.builder.project import BuildError, Project
from book.kit.provenance import commit, versions

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run one command; the exit status is 0 only when all of it went well."""
    options = parser().parse_args(arguments)
    try:
        return options.command(Project(root), options)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    selection = argparse.ArgumentParser(add_help=False)
    selection.add_argument(
        "--params", default="cpu", help="set in notebooks/params (default: %(default)s)"
    )
    selection.add_argument(
        "--only",
        action="append",
        metavar="NN_name",
        help="this chapter; may be repeated",
    )
    selection.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of every selected chapter that has it; may be repeated",
    )
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--jobs", type=int, default=2, help="notebooks at a time (default: %(default)s)"
    )
    running.add_argument("--force", action="store_true", help="run unchanged ones too")
    for name, command, parents, text in (
        ("book", book, [selection, running], "run what changed and render the pages"),
        ("run", run, [selection, running], "run what changed, render nothing"),
        ("check", check, [selection], "fail when executed notebooks are out of date"),
        ("repeat", repeat, [selection, running], "run again, compare the outputs"),
        ("sources", check_sources, [], "check the committed notebooks"),
        ("bootstrap", bootstrap, [], "write the bootstrap cell into all notebooks"),
        ("tree", write_tree, [], "write the file tree into README.md"),
        ("record", record_runs, [], "store the runs of this build for the status page"),
    ):
        sub = commands.add_parser(name, parents=parents, help=text)
        sub.set_defaults(command=command)
    return top


def book(project: Project, options: argparse.Namespace) -> int:
    """Run what changed, then render."""
    check_prose(project)
    status = run(project, options)
    if status:
        return status
    entries = manifest.load(manifest_path(project))
    lacking = [n for n in sources.chapters(project) if n not in entries]
    if lacking:
        print(
            f"without outputs, and so without warnings as errors: {', '.join(lacking)}"
        )
    start = time.perf_counter()
    uncovered.write(project)
    new = site.render(project, site.stage(project, entries), strict=not lacking)
    took = f"rendered in {time.perf_counter() - start:.1f} s" if new else "unchanged"
    print(f"pages: {took}: {project.show(project.html)}/index.html")
    notebooks = colab_notebooks.write_all(project)
    colab_notebooks.check(project, notebooks)
    print(f"for Colab: {project.show(notebooks)}")
    return 0


def run(project: Project, options: argparse.Namespace) -> int:
    """Run the selected chapters that are out of date; record each run."""
    plans = plan(project, options)
    entries = manifest.load(manifest_path(project))
    todo = []
    for job, now in plans:
        recorded = entries.get(job.name)
        now = now | {"versions": versions()}
        reason = manifest.stale(recorded, now, job.target, project.root)
        if options.force or reason:
            print(f"     run  {job.name}: {reason or 'forced'}")
            todo.append((job, now))
        else:
            print(f"    keep  {job.name}: unchanged")
    if not todo:
        return 0
    about = {"parameter_set": options.params, "commit": commit(project.root)}
    jobs = {job.name: job for job, _ in todo}
    inputs = {job.name: now for job, now in todo}
    prepare(project, list(jobs.values()))

    def record(outcome: execute.Outcome) -> None:
        if outcome.error:
            print(f"  FAILED  {outcome.name} after {took(outcome)}", flush=True)
            return
        print(f"    done  {outcome.name} in {took(outcome)}", flush=True)
        job = jobs[outcome.name]
        cost = {
            "device": shared.device(job.values),
            "seconds": round(outcome.seconds, 2),
            "cpu_seconds": round(outcome.cpu_seconds, 2),
        }
        before = entries.get(job.name, {}).get("runs", {})
        entries[job.name] = {
            **inputs[job.name],
            **about,
            **cost,
            "output": digest([job.target], project.root),
            "runs": before | {options.params: cost | {"commit": about["commit"]}},
        }
        manifest.save(manifest_path(project), entries)

    outcomes = execute.run_all(jobs.values(), options.jobs, record)
    minutes = sum(outcome.cpu_seconds for outcome in outcomes) / 60
    print(f"     cpu  {minutes:.1f} minutes for {len(outcomes)} notebooks", flush=True)
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        print(f"\n{outcome.error}", file=sys.stderr)
    if failed:
        names = ", ".join(outcome.name for outcome in failed)
        raise BuildError(f"{len(failed)} of {len(todo)} notebooks failed: {names}.")
    return 0


def took(outcome: execute.Outcome) -> str:
    return f"{outcome.seconds:.1f} s, {outcome.cpu_seconds:.1f} s of CPU"


def check(project: Project, options: argparse.Namespace) -> int:
    """Name the executed notebooks whose inputs have changed since they were run."""
    entries = manifest.load(manifest_path(project))
    reasons = {}
    for job, now in plan(project, options):
        reason = manifest.stale(entries.get(job.name), now, job.target, project.root)
        if reason:
            reasons[job.name] = reason
    for name, reason in reasons.items():
        print(f"{name}: {reason}", file=sys.stderr)
    if reasons:
        raise BuildError(f"{len(reasons)} pages are out of date; run `make book`.")
    print("all executed notebooks are up to date")
    return 0


def repeat(project: Project, options: argparse.Namespace) -> int:
    """Run the chapters twice with the same seed; outputs must be identical."""
    status = run(project, options)
    if status:
        return status
    jobs = [job for job, _ in plan(project, options)]
    prepare(project, jobs)
    with tempfile.TemporaryDirectory(dir=project.build) as name:
        folder = Path(name)
        second = [replace(job, target=folder / job.target.name) for job in jobs]
        outcomes = execute.run_all(second, options.jobs, lambda outcome: None)
        found = [outcome.error for outcome in outcomes if outcome.error]
        if not found:
            entries, now = manifest.load(manifest_path(project)), commit(project.root)
            for one, other in zip(jobs, second, strict=True):
                commits = (entries[one.name]["commit"], now)
                found += execute.differences(one.target, other.target, commits)
    if found:
        raise BuildError("the second run differs:\n" + "\n".join(found))
    print(f"{len(jobs)} notebooks gave the same outputs twice")
    return 0


def check_sources(project: Project, options: argparse.Namespace) -> int:
    """Check the committed notebooks and every parameter set."""
    found = sources.load(project)
    defaults = {source.name: source.defaults for source in found}
    for path in sorted((project.notebooks / "params").glob("*.yaml")):
        parameters.read_set(path, defaults)
    check_prose(project)
    if too_long := list(visible.check(project)):
        raise BuildError("\n".join(too_long))
    stated = len(claims.declared(project))
    lacking, stale = uncovered.write(project)
    where = project.show(project.build / uncovered.NAME)
    said = (
        f"{stated} claims; {lacking} interpreting sentences with neither claim nor "
        f"reason, {stale} reasons without their sentence: {where}"
    )
    if lacking or stale:
        raise BuildError(said)
    print(said)
    print(f"{len(found)} notebooks are clean, their sets fit, no result is typed")
    return 0


def check_prose(project: Project) -> None:
    """``BuildError`` for a result in the prose that is neither computed nor cited, and
    for a claim that the prose lacks or words otherwise."""
    found = [*prose.check(project), *claims.check(project)]
    if found:
        raise BuildError("\n".join(found))


def bootstrap(project: Project, options: argparse.Namespace) -> int:
    """Bring every notebook's first code cell up to date."""
    for name in list(sources.update_bootstrap(project)):
        print(f"updated {name}")
    return 0


def write_tree(project: Project, options: argparse.Namespace) -> int:
    """Bring the file tree of README.md up to date with the files and their docstrings."""
    changed = tree.put_into_readme(project.root)
    print(f"README.md: {'updated' if changed else 'up to date'}")
    return 0


def record_runs(project: Project, options: argparse.Namespace) -> int:
    """Write all recorded runs into a file of the repository, which is to be committed."""
    path = project.book / records.STORED_RUNS
    found = {name: of for name, of in records.runs(project).items() if of}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{project.show(path)}: runs of {len(found)} chapters")
    return 0


def manifest_path(project: Project) -> Path:
    return project.build / "manifest.json"


def plan(
    project: Project, options: argparse.Namespace
) -> list[tuple[execute.Job, dict[str, Any]]]:
    """The selected notebooks, each with the digests of its inputs."""
    found = sources.load(project)
    defaults = {source.name: source.defaults for source in found}
    path = project.notebooks / "params" / f"{options.params}.yaml"
    values, cell_timeout = parameters.read_set(path, defaults)
    for name in options.only or []:
        if name not in defaults:
            raise BuildError(f"No chapter '{name}'; known: {', '.join(defaults)}.")
    chosen = {name: defaults[name] for name in options.only or defaults}
    values |= parameters.changed(values, parameters.assignments(options.set), chosen)
    workers = getattr(options, "jobs", 1)
    if workers < 1:
        raise BuildError(f"--jobs must be at least 1, got {workers}.")
    plans = []
    for source in found:
        if options.only and source.name not in options.only:
            continue
        job = execute.Job(
            name=source.name,
            source=source.path,
            target=project.executed / source.path.name,
            root=project.root,
            values=values[source.name],
            cell_timeout=cell_timeout,
            threads=max(1, (os.cpu_count() or 1) // workers),
            jupyter=project.build / "jupyter",
        )
        now = manifest.inputs_of(project, source, job.values)
        plans.append((job, now))
    return plans


def prepare(project: Project, jobs: Sequence[execute.Job]) -> None:
    """Make what the notebooks share before several of them run at the same time."""
    execute.install_kernel(project.build / "jupyter")
    shared.ensure_data(project, [job.values for job in jobs])


if __name__ == "__main__":
    sys.exit(main())
