"""Where the project is published: its repository, its pages, its notebooks on Colab."""

import os
import re
from urllib.parse import urlsplit

import yaml

from book.builder.project import Project
from book.kit.provenance import git

COLAB = "https://colab.research.google.com"
COLAB_BADGE = f"{COLAB}/assets/colab-badge.svg"
#: The branch that holds the notebooks for Colab, see ``colab_notebooks.py``.
COLAB_BRANCH = "colab"
#: Hosts of published pages, by the host of the repository.
PAGES = {"github.com": "github.io", "gitlab.com": "gitlab.io"}


def configured(project: Project) -> str:
    """The address of the repository that ``_config.yml`` names, empty if none."""
    text = (project.root / "_config.yml").read_text(encoding="utf-8")
    return _web((yaml.safe_load(text).get("repository") or {}).get("url") or "")


def repository(project: Project) -> str:
    """The address of the repository: configured, of the CI run, or of the git remote.

    Empty where none of them is an address of the web.
    """
    server, name = (
        os.environ.get(f"GITHUB_{x}", "") for x in ("SERVER_URL", "REPOSITORY")
    )
    run = (
        f"{server}/{name}" if server and name else os.environ.get("CI_PROJECT_URL", "")
    )
    remote = git(project.root, "remote", "get-url", "origin")
    return configured(project) or _web(run) or _web(remote)


def pages(project: Project) -> str:
    """The address of the published pages, with a slash at its end; empty if unknown."""
    text = (project.root / "_config.yml").read_text(encoding="utf-8")
    given = (yaml.safe_load(text).get("html") or {}).get("baseurl") or ""
    parts = urlsplit(repository(project))
    owner, _, name = parts.path.strip("/").partition("/")
    if not given and parts.hostname in PAGES and name:
        host = f"{owner}.{PAGES[parts.hostname]}".lower()
        given = f"https://{host}/" + ("" if name.lower() == host else name)
    return given.rstrip("/") + "/" if given else ""


def on_colab(project: Project) -> bool:
    """Whether Colab can open notebooks of the repository by their address."""
    return urlsplit(repository(project)).hostname == "github.com"


def commit(project: Project) -> str:
    """The whole name of the commit; empty where files differ from it."""
    changed = git(project.root, "status", "--porcelain")
    return "" if changed else git(project.root, "rev-parse", "HEAD")


def _web(remote: str) -> str:
    """A git remote as an address of the web, empty for one that is none."""
    ssh = re.fullmatch(r"(?:ssh://)?git@([^:/]+)[:/](.+)", remote)
    remote = f"https://{ssh[1]}/{ssh[2]}" if ssh else remote
    if urlsplit(remote).scheme not in ("http", "https"):
        return ""
    return remote.removesuffix("/").removesuffix(".git")
