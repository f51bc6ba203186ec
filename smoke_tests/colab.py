"""Smoke test of a newcomer on Colab, without Colab: one notebook, its packages, no project.

    .venv/bin/python smoke_tests/colab.py LIST [--python PYTHON] [--only NN_name ...]

LIST is Colab's published list of packages, from ``pip freeze``. A fresh environment gets
those of them that this project's requirements touch, in these versions, and Colab's
kernel; of torch it is PyPI's build of the version, with its own CUDA libraries. Then the
notebook made for Colab runs in an empty folder, with small parameters; its first cell
fetches the last commit of this checkout and installs what is missing. Fails if a cell
fails or if a package that was there has changed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import papermill
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from book import colab  # noqa: E402  (found through the line above)
from book.builder import colab_notebooks, parameters, sources  # noqa: E402
from book.builder.project import Project  # noqa: E402
from book.kit.provenance import git  # noqa: E402

CHAPTERS = ["01_task_and_data"]
#: What Colab's page talks to, beside what the project needs.
KERNEL = ("ipykernel", "ipython", "torchvision", "pip")
#: Libraries that come with a build of torch.
OF_TORCH = ("nvidia-", "cuda-", "triton")


def main() -> None:
    """Make the environment, run the chapters, compare the packages; print each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="Colab's list of packages")
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument("--only", nargs="+", default=CHAPTERS, metavar="NN_name")
    parser.add_argument("--work", type=Path, help="where to work (kept, and reused)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        python = environment(work, options.list, options.python)
        before = packages(python)
        print(f"{len(before)} packages of the list are there", flush=True)
        run_chapters(work, python, options.only)
        after = packages(python)
    changed = {n: (v, after.get(n)) for n, v in before.items() if after.get(n) != v}
    new = sorted(set(after) - set(before))
    print("new packages:", ", ".join(f"{name} {after[name]}" for name in new))
    if changed:
        sys.exit(f"packages that were there have changed: {changed}")
    print("no package that was there has changed")


def environment(work: Path, listed: Path, interpreter: str) -> Path:
    """A fresh environment with the listed packages that the project touches."""
    python = work / "venv/bin/python"
    constraints = work / "constraints.txt"
    work.mkdir(parents=True, exist_ok=True)
    versions = read_list(listed)
    lines = "\n".join(f"{name}=={version}" for name, version in versions.items())
    constraints.write_text(lines + "\n", encoding="utf-8")
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", work / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "-q", "-c", constraints]
    subprocess.run([*pip, f"pip=={versions['pip']}"], check=True)
    wanted = [str(one) for one in colab.wanted(ROOT / "pyproject.toml")]
    report = work / "report.json"
    plan = ["--dry-run", "--ignore-installed", "--report", report]
    subprocess.run([*pip, *plan, *KERNEL, *wanted], check=True)
    needed = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {canonicalize_name(one["metadata"]["name"]) for one in needed}
    asked = [f"{n}=={v}" for n, v in versions.items() if n in names]
    subprocess.run([*pip, *asked], check=True)
    return python


def read_list(path: Path) -> dict[str, str]:
    """Versions by canonical name, without the label of the machine they are built for."""
    found = {"pip": "24.1.2"}  # what Colab has; the list leaves it out
    for line in path.read_text(encoding="utf-8").splitlines():
        if "==" not in line or line.startswith(("#", *OF_TORCH)):
            continue
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        found[canonicalize_name(requirement.name)] = Version(pin.version).public
    return found


def packages(python: Path) -> dict[str, str]:
    """Every installed package of an environment, with its version."""
    listing = [python, "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(listing, check=True, capture_output=True, text=True)
    return {one["name"]: one["version"] for one in json.loads(done.stdout)}


def run_chapters(work: Path, python: Path, names: list[str]) -> None:
    """Run the notebooks one after the other, as in one runtime."""
    project = Project(ROOT)
    made = colab_notebooks.write_all(project)
    defaults = {source.name: source.defaults for source in sources.load(project)}
    smoke = project.notebooks / "params/smoke.yaml"
    values, timeout = parameters.read_set(smoke, defaults)
    commit = git(ROOT, "rev-parse", "HEAD")
    first = sources.bootstrap_cell(project, ROOT.as_uri(), commit)
    content = Path(tempfile.mkdtemp(dir=work, prefix="content-"))
    os.environ |= pretend_colab(work, python)
    for name in names:
        notebook = sources.read(made / f"notebooks/{name}.ipynb")
        sources.fill_bootstrap(notebook, first)
        path = content / f"{name}.ipynb"
        sources.write(notebook, path)
        began = time.perf_counter()
        small = values[name] | {"size": "auto"}  # as by hand, on a machine without GPU
        done = papermill.execute_notebook(
            path,
            path,
            parameters=small,
            kernel_name="colab",
            language="python",
            cwd=content,
            progress_bar=False,
            execution_timeout=4 * timeout,  # the machine may be busy
        )
        for cell in sources.tagged(done, "bootstrap") + [
            cell for cell in done.cells if cell.get("id") == "size"
        ]:
            for output in cell.outputs:
                print("    " + output.get("text", "").rstrip().replace("\n", "\n    "))
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


def pretend_colab(work: Path, python: Path) -> dict[str, str]:
    """A kernel of the environment in which ``google.colab`` is loaded, as on Colab."""
    stub = work / "stub/google/colab"
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "__init__.py").touch()
    startup = work / "ipython/profile_default/startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "colab.py").write_text("import google.colab\n")
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Colab",
        "language": "python",
    }
    folder = work / "jupyter/kernels/colab"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    return {
        "JUPYTER_PATH": str(work / "jupyter"),
        "IPYTHONDIR": str(work / "ipython"),
        "PYTHONPATH": str(work / "stub"),
    }


if __name__ == "__main__":
    main()
