"""Run notebooks with papermill, several in parallel, and remove run metadata."""

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.builder import claims, sources
from book.builder.parameters import Values
from glscl.util.files import write_json

KERNEL = "glscl-book"
INJECTED = "injected-parameters"
#: Captions of folded cells on the page, by tag.
CAPTIONS = {
    INJECTED: "Values this page was run with",
    "bootstrap": "Find the project, or fetch it",
    "solution": "Solution",
}


@dataclass(frozen=True)
class Job:
    """One notebook to run: from ``source`` into ``target``, with all its values."""

    name: str
    source: Path
    target: Path
    root: Path
    values: Values
    cell_timeout: int
    threads: int
    jupyter: Path


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``error`` is empty for a success, else says what went wrong.

    ``cpu_seconds``: of all its processes; without those of the kernel where the system,
    Windows, does not count them.
    """

    name: str
    seconds: float
    cpu_seconds: float
    error: str = ""


def install_kernel(jupyter: Path) -> None:
    """Register the running interpreter as a kernel in the build folder ``jupyter``.

    Kernels of the machine or of the user may belong to other environments. This one is
    found first (``JUPYTER_PATH``), and nothing outside the build folder is written.
    """
    folder = jupyter / "kernels" / KERNEL
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [
            sys.executable,
            "-Xfrozen_modules=off",
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--IPKernelApp.log_level=50",
        ],
        "display_name": "glscl book",
        "language": "python",
    }
    write_json(folder / "kernel.json", spec)


def environment(job: Job) -> dict[str, str]:
    """Environment variables of a kernel: no progress bars, reproducible, few threads."""
    threads = str(job.threads)
    return {
        "JUPYTER_PATH": str(job.jupyter),
        "IPYTHONDIR": str(job.jupyter / "ipython"),
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TQDM_DISABLE": "1",
        "GLSCL_PAGE": job.name,  # see book.kit.trained
        # tqdm.auto warns in every environment without widgets.
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # Memory of one tensor serves the next: glibc would give it back in between.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    }


def run_all(
    jobs: Iterable[Job], workers: int, report: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run notebooks in parallel processes; ``report`` is called when each ends."""
    outcomes = []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        names = {pool.submit(run, job): job.name for job in jobs}
        for future in as_completed(names):
            try:
                outcome = future.result()
            except BrokenProcessPool:
                why = "the process that ran it was killed (out of memory?)"
                outcome = Outcome(names[future], 0.0, 0.0, f"{names[future]}: {why}")
            report(outcome)
            outcomes.append(outcome)
    return outcomes


def run(job: Job) -> Outcome:
    """Execute one notebook into a temporary file, moved to the target on success."""
    os.environ.update(environment(job))
    # Imported late: the parent process only checks hashes on most calls.
    import papermill

    print(f"   start  {job.name}", flush=True)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    partial = job.target.with_name(f".{job.target.name}.partial")
    start, cpu = time.perf_counter(), cpu_seconds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                _unformatted(job.source),
                _unformatted(partial),
                parameters=job.values,
                kernel_name=KERNEL,
                language="python",
                cwd=str(job.root),
                progress_bar=False,
                request_save_on_cell_execute=False,
                execution_timeout=job.cell_timeout,
            )
        notebook = tidy(sources.read(partial), sources.read(job.source))
        check_no_bare_values(notebook)
        claims.check_verdicts(notebook)
        sources.write(notebook, job.target)
    except Exception as error:
        why = explain(job, error)
    else:
        why = ""
    finally:
        partial.unlink(missing_ok=True)
    return Outcome(job.name, time.perf_counter() - start, cpu_seconds() - cpu, why)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _unformatted(path: Path) -> str:
    """``path`` with its braces doubled: papermill formats paths with the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def explain(job: Job, error: Exception) -> str:
    """The failing cell and its traceback, or the message of another error."""
    where = job.source.relative_to(job.root).as_posix()
    if not hasattr(error, "traceback") or not hasattr(error, "ename"):
        return f"{where}: {type(error).__name__}: {error}"
    code = "\n".join(f"    {line}" for line in error.source.splitlines())
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return (
        f"{where}, code cell [{error.exec_count}]: {error.ename}: {error.evalue}\n"
        f"{code}\n{trace}"
    )


def tidy(notebook: NotebookNode, source: NotebookNode) -> NotebookNode:
    """Remove metadata that differs between runs; give folded cells their captions."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": source.metadata.get("kernelspec", {}),
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if INJECTED in sources.tags(cell):
            cell.id = INJECTED
            cell.metadata["tags"] = [INJECTED, "hide-input"]
        for tag in sources.tags(cell):
            if tag in CAPTIONS:
                prompts = dict.fromkeys(("show", "hide"), CAPTIONS[tag])
                cell.metadata["mystnb"] = {
                    f"code_prompt_{state}": text for state, text in prompts.items()
                }
    return notebook


def check_no_bare_values(notebook: NotebookNode) -> None:
    """``ValueError`` where a cell ends in an expression, whose ``repr`` the kernel shows.

    Such output is unintended, may be long, and may contain a memory address.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "execute_result":
                shown = output.data.get("text/plain", "").split("\n")[0]
                raise ValueError(
                    f"cell {cell.id} ends in an expression, shown as {shown}: "
                    "print it, pass it to book.kit.report, or assign it."
                )


def differences(
    first: Path, second: Path, commits: tuple[str, str] = ("", "")
) -> Iterator[str]:
    """Names of cells in which two runs of one notebook differ.

    Outputs of cells with the tag ``timing`` may differ, and so may the ``commits`` that
    the runs state.
    """
    one = _comparable(sources.read(first), commits[0])
    other = _comparable(sources.read(second), commits[1])
    if len(one) != len(other):
        yield f"{first.stem}: {len(one)} cells in one run, {len(other)} in the other"
    for before, after in zip(one, other, strict=False):
        if before != after:
            yield f"{first.stem}: cell {before[0]} differs"


def _comparable(notebook: NotebookNode, commit: str) -> list[tuple[str, str]]:
    """Identifier of each cell, and its content as far as two runs must agree."""
    cells = []
    for cell in notebook.cells:
        content = dict(cell)
        if "timing" in sources.tags(cell):
            content.pop("outputs", None)
        text = json.dumps(content, sort_keys=True)
        cells.append((cell.id, text.replace(commit, "commit") if commit else text))
    return cells
