"""Install the packages that the notebooks lack on Colab, and replace none.

Colab comes with a torch built for its driver and its GPU, and with a kernel that its
page talks to. So every version that is there goes into a constraints file, and only
packages that are missing or too old are installed; of ``KEPT`` none is ever replaced.
"""

import importlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("torch", "torchvision", "torchaudio", "numpy", "ipykernel", "ipython")


def installed() -> dict[str, str]:
    """The version of every installed distribution, by its canonical name."""
    return {
        canonicalize_name(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def wanted(pyproject: Path) -> list[Requirement]:
    """The package's requirements and those of the extra that notebooks need."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["book"]
    return [Requirement(line) for line in (*project["dependencies"], *extra)]


def missing(
    requirements: Iterable[Requirement], there: dict[str, str]
) -> list[Requirement]:
    """Those that apply to this platform and are not ``there`` or too old."""
    return [
        one
        for one in requirements
        if (one.marker is None or one.marker.evaluate())
        and not _is_there(one, there.get(canonicalize_name(one.name)))
    ]


def _is_there(requirement: Requirement, version: str | None) -> bool:
    found = version is not None
    return found and requirement.specifier.contains(version, prereleases=True)


def pins(there: dict[str, str], but: Iterable[Requirement]) -> list[str]:
    """``name==version`` of all that is ``there``, without those that are too old."""
    old = {canonicalize_name(one.name) for one in but}
    return [
        f"{name}=={version}"
        for name, version in sorted(there.items())
        if name not in old and _is_version(version)
    ]


def _is_version(text: str) -> bool:
    try:
        return bool(Version(text))
    except InvalidVersion:  # of a system's own package; pip refuses to read it
        return False


def install() -> str:
    """Install what is missing; what was installed, in words.

    ``SystemExit`` with one sentence where that is not possible.
    """
    there = installed()
    lacking = missing(wanted(ROOT / "pyproject.toml"), there)
    kept = [str(one) for one in lacking if canonicalize_name(one.name) in KEPT]
    if kept:
        raise SystemExit(
            f"{', '.join(kept)} is missing or too old in this Colab runtime, and "
            "replacing it would break the runtime: choose a newer runtime version."
        )
    if not lacking:
        return "nothing, all is there"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "keep.txt")
        lines = "\n".join(pins(there, lacking))
        constraints.write_text(lines + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints)]
        asked = [f"{one.name}{one.specifier}" for one in lacking]
        done = subprocess.run([*command, *asked], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip could not install {', '.join(asked)}:\n{done.stderr}")
    importlib.invalidate_caches()
    new = sorted(set(installed().items()) - set(there.items()))
    words = ", ".join(f"{name} {version}" for name, version in new)
    return f"{words} ({time.perf_counter() - began:.0f} s)"


def gpu() -> str:
    """The GPU of this runtime, and its torch."""
    import torch

    found = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if found else "none, everything runs on the CPU"
    return f"{name} (torch {torch.__version__}, Python {platform.python_version()})"


def main(expected: str = "") -> None:
    """Complete the environment, and print what a notebook runs with.

    ``expected``: the commit that the notebook belongs to, empty if unknown.
    """
    print(f"Installed: {install()}")
    # Only now: these need what was installed.
    from book.kit.provenance import commit
    from book.kit.settings import automatic_size

    found = commit(ROOT)
    other = found != "unknown" and not expected.startswith(found.rstrip("+"))
    note = f", this notebook is of {expected[:12]}" if expected and other else ""
    print(f"Commit: {found}{note}")
    print(f"GPU: {gpu()}")
    print(f'Settings: notebooks/params/{automatic_size()}.yaml while size = "auto"')


if __name__ == "__main__":
    main()
