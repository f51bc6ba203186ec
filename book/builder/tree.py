"""What code writes into the README: its badges, and a line for each file of the tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

from book.builder import address
from book.builder.project import Project

BADGES = ("<!-- badges -->\n", "<!-- /badges -->")
MARKS = ("<!-- tree -->\n```\n", "```\n<!-- /tree -->")
#: Folders that are shown file by file, and others that are one line.
SHOWN = ("glscl", "book/kit", "book/experiments", "book/builder")
OTHERS = {
    "book/": "prose pages, references, stored results with their provenance",
    "notebooks/": "the chapters, clean, with params/{smoke,cpu,gpu}.yaml",
    "benchmarks/": "speed and memory, as ratios against a reference of the same run",
    "tests/": "one folder for each part of the package; test names say the behaviour",
    "smoke_tests/": "what users do first, as scripts; a check of the playground",
    ".ci/run": "everything a change has to pass",
}
WIDTH = 26  # columns of the names


def role(path: Path) -> str:
    """The first sentence of a module, without its period."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].rstrip(".").replace("``", "")


def tree(root: Path) -> Iterator[str]:
    """Lines of the tree: the package and the book's own code, then the other folders."""
    for shown in SHOWN:
        yield from _folder(root / shown, shown, 0)
    for name, text in OTHERS.items():
        yield f"{name:{WIDTH}}{text}"


def _folder(folder: Path, name: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield f"{indent + name + '/':{WIDTH}}{role(folder / '__init__.py')}"
    inside = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in inside:
        if path.suffix == ".py" and not path.name.startswith("__"):
            yield f"{indent + '  ' + path.stem:{WIDTH}}{role(path)}"
        elif (path / "__init__.py").is_file():
            yield from _folder(path, path.name, depth + 1)


def badges(root: Path) -> Iterator[str]:
    """Badges of the checks, the published book and Colab, if an address is configured."""
    project = Project(root)
    url = address.configured(project)
    if not address.on_colab(project) or not url:
        return
    for job, what in (("pull-request", "checks"), ("pages", "book")):
        picture = f"{url}/actions/workflows/{job}.yml"
        link = address.pages(project) if job == "pages" else picture
        yield f"[![{what}]({picture}/badge.svg)]({link})"
    notebooks = f"{url}/tree/{address.COLAB_BRANCH}"
    yield f"[![Open in Colab]({address.COLAB_BADGE})]({notebooks})"


def put_into_readme(root: Path) -> bool:
    """Bring the badges and the tree in README.md up to date; whether it changed."""
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    new = _between(text, BADGES, badges(root))
    new = _between(new, MARKS, tree(root))
    if new != text:
        path.write_text(new, encoding="utf-8")
    return new != text


def _between(text: str, marks: tuple[str, str], lines: Iterator[str]) -> str:
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    inside = "".join(f"{line}\n" for line in lines)
    return f"{before}{marks[0]}{inside}{marks[1]}{after}"
