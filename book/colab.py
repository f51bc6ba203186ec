"""Install the packages that the notebooks lack on Colab, without replacing torch.

Colab comes with a torch built for its driver and its GPU. Another one would take
minutes to install and might not work, so the installed versions of torch and of the
packages compiled against it go into a constraints file, and only missing packages are
installed.
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
PINNED = ("torch", "torchvision", "torchaudio", "numpy")
NOTEBOOK_EXTRAS = ("matplotlib", "seaborn", "pandas", "fvcore", "pyyaml", "pylance")


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
    """Those that apply to this platform and are not installed or too old."""
    lacking = []
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = installed(requirement.name)
        if version is None or Version(version) not in requirement.specifier:
            lacking.append(f"{requirement.name}{requirement.specifier}")
    return lacking


def pins() -> list[str]:
    """``name==version`` of every installed package of ``PINNED``."""
    versions = {name: installed(name) for name in PINNED}
    return [f"{name}=={version}" for name, version in versions.items() if version]


def main() -> int:
    lacking = missing(wanted(ROOT / "pyproject.toml"))
    pinned = [item for item in lacking if Requirement(item).name in PINNED]
    if pinned:
        print(
            f"{', '.join(pinned)} is missing or too old in this Colab runtime, and "
            "replacing it would break the runtime: choose a newer runtime version.",
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
