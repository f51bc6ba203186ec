"""Install what the notebooks miss on Colab, and leave torch as it is.

Colab comes with a torch built for its driver and its GPU. Another one would take
minutes to install and might not fit, so the installed versions of torch and of what
is compiled against it go into a constraints file, and only what is missing is asked
for.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("torch", "torchvision", "torchaudio", "numpy")
NOTEBOOK_EXTRAS = ("matplotlib", "seaborn", "pandas", "fvcore", "pyyaml", "faiss-cpu")


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def wanted(pyproject: Path) -> list[Requirement]:
    """The package's requirements and those of its extras that notebooks import."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = map(Requirement, project["optional-dependencies"]["book"])
    return [
        *map(Requirement, project["dependencies"]),
        *(r for r in extras if r.name.lower() in NOTEBOOK_EXTRAS),
    ]


def missing(requirements: Iterable[Requirement]) -> list[str]:
    """Those that this platform needs and that are absent or too old."""
    lacking = []
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = installed(requirement.name)
        if version is None or Version(version) not in requirement.specifier:
            lacking.append(f"{requirement.name}{requirement.specifier}")
    return lacking


def pins() -> list[str]:
    """What must stay: one ``name==version`` for each of ``KEPT`` that is here."""
    versions = {name: installed(name) for name in KEPT}
    return [f"{name}=={version}" for name, version in versions.items() if version]


def main() -> int:
    lacking = missing(wanted(ROOT / "pyproject.toml"))
    kept = [item for item in lacking if Requirement(item).name in KEPT]
    if kept:
        print(
            f"This runtime's {', '.join(kept)} is missing or too old, and replacing it "
            "here would break the runtime: choose a newer Colab runtime version.",
            file=sys.stderr,
        )
        return 1
    if not lacking:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "keep.txt")
        constraints.write_text("\n".join(pins()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", constraints]
        return subprocess.run([*command, *lacking]).returncode


if __name__ == "__main__":
    sys.exit(main())
