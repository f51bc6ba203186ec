"""The files that install the project agree with each other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from book.builder import tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines):
    """(canonical name, marker) to specifier."""
    found = {}
    for line in lines:
        requirement = Requirement(line)
        key = canonicalize_name(requirement.name), str(requirement.marker)
        found[key] = str(requirement.specifier)
    return found


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_conda_installs_what_pyproject_asks_for():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip = conda["dependencies"][0], conda["dependencies"][-1]["pip"]
    assert python == f"python{PROJECT['requires-python']}"
    asked = [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["search"]]
    asked += [line for line in EXTRAS["build"] if not line.startswith("glscl[")]
    assert requirements(pip) == requirements(asked)


def docker_lines(word):
    """The arguments of every instruction of that name in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.split() for line in text.splitlines())
    return [words[1:] for words in lines if words and words[0] == word]


def test_the_container_is_made_of_all_files_of_the_project():
    copied = {name for *names, _ in docker_lines("COPY") for name in names}
    assert all((ROOT / name).exists() for name in copied)
    listing = ["git", "ls-files"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    tracked = {line.split("/")[0] for line in done.stdout.splitlines()}
    assert tracked - copied <= {
        ".editorconfig",
        ".gitignore",
        ".pre-commit-config.yaml",
    }


def test_the_container_has_a_python_of_the_project_and_its_pinned_packages():
    (base, *_), *_ = docker_lines("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", base)[1]
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    makefile = (ROOT / "Makefile").read_text()
    assert "pip install -q -c constraints.txt -e" in makefile
    (install,) = (words for words in docker_lines("RUN") if words[0] == "make")
    for target in install[1:]:
        assert target.removeprefix(".venv/.") in EXTRAS
        assert re.search(rf"^{re.escape(target)}\b.*:", makefile, re.M) or (
            target in re.search(r"^(.*): \.venv/\.%", makefile, re.M)[1].split()
        )


def test_the_development_container_uses_the_same_files():
    folder = ROOT / ".devcontainer"
    about = json.loads((folder / "devcontainer.json").read_text())
    assert (folder / about["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    stages = [words[-1] for words in docker_lines("FROM") if "AS" in words]
    assert about["build"]["target"] in stages
    assert about["postCreateCommand"].split() in docker_lines("RUN")


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")))
def test_workflows_call_targets_and_files_that_are_there(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    makefile = (ROOT / "Makefile").read_text()
    for command in (step["run"] for step in steps if "run" in step):
        for target in re.findall(r"^\s*make ([\w-]+)", command, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for name in re.findall(r"\b(?:book|smoke_tests)/\w+\.(?:py|sh)", command):
            assert (ROOT / name).is_file(), name


def test_what_a_colab_user_may_install_leaves_the_kernel_alone():
    asked = {Requirement(line).name for line in EXTRAS["book"]}
    kernel = {"ipykernel", "ipython", "jupyter-client", "jupyter-book", "papermill"}
    assert not asked & kernel


def test_constraints_are_exact_and_allowed_by_pyproject():
    pins = {canonicalize_name(pin.name): pin for pin in constraints()}
    everything = [*PROJECT["dependencies"], *(r for e in EXTRAS.values() for r in e)]
    for line in everything:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == "glscl":  # itself
            continue
        assert name in pins, f"{name} is not pinned"
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version, prereleases=True), name


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("system", "machine", "decoders"),
    [
        ("Linux", "x86_64", {"av", "decord"}),
        ("Windows", "AMD64", {"av", "decord"}),
        ("Linux", "aarch64", {"av"}),
        ("Darwin", "arm64", {"av"}),
        ("Darwin", "x86_64", {"av"}),
        ("Windows", "ARM64", {"av"}),
    ],
)
def test_decord_is_asked_for_only_where_it_has_a_wheel(
    python, system, machine, decoders
):
    place = {
        "platform_system": system,
        "platform_machine": machine,
        "python_version": python,
    }
    asked = {
        requirement.name
        for requirement in map(Requirement, PROJECT["dependencies"])
        if requirement.marker is None or requirement.marker.evaluate(place)
    }
    assert asked & {"av", "decord", "eva-decord", "decord2"} == decoders


def test_torch_is_the_version_the_book_names():
    pins = {pin.name: str(pin.specifier) for pin in constraints()}
    assert pins["torch"] == "==2.13.0"
    assert pins["torchvision"] == "==0.28.0"


def test_every_package_folder_is_installed():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "glscl").rglob("__init__.py")
    }
    assert listed == there


def test_the_tree_of_the_readme_is_that_of_the_files():
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(tree.MARKS[0])[2].partition(tree.MARKS[1])[0]
    assert shown.splitlines() == list(tree.tree(ROOT))
    shown = readme.partition(tree.BADGES[0])[2].partition(tree.BADGES[1])[0]
    assert shown.splitlines() == list(tree.badges(ROOT))


def test_badges_need_a_configured_address(tmp_path):
    shutil.copyfile(ROOT / "_config.yml", tmp_path / "_config.yml")
    assert list(tree.badges(tmp_path)) == []
    path = tmp_path / "_config.yml"
    address = 'url: "https://github.com/owner/name"'
    path.write_text(path.read_text().replace('url: ""', address))
    found = list(tree.badges(tmp_path))
    assert len(found) == 3
    for job in re.findall(r"workflows/([\w-]+\.yml)/badge", "".join(found)):
        assert (ROOT / ".github/workflows" / job).is_file(), job
    assert "(https://owner.github.io/name/)" in found[1]


def test_every_module_says_its_role_in_one_line():
    for line in tree.tree(ROOT):
        assert line[tree.WIDTH :].strip(), line
        assert len(line) <= 110, line


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_is_there(page):
    named = re.findall(r"`([\w.]+/[\w./]*)`", (ROOT / page).read_text())
    assert named
    generated = ("_build", "data", "runs", "notebooks/NN_name.ipynb")
    for path in named:
        assert path.startswith(generated) or (ROOT / path).exists(), path
