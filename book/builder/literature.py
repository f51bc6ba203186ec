"""Citations as text, for downloaded chapters, which have no page of references."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from book.builder.project import BuildError


class Literature:
    """The entries of one BibTeX file."""

    def __init__(self, path: Path) -> None:
        # Imported late: only a build with copies needs it.
        from pybtex.database import parse_file

        self.path = path
        self.entries = parse_file(str(path)).entries

    def entry(self, key: str) -> Any:
        """The entry of ``key``; ``BuildError`` where there is none."""
        if key not in self.entries:
            raise BuildError(f"{self.path.name} has no entry '{key}', which is cited.")
        return self.entries[key]

    def short(self, key: str) -> str:
        """Authors and year, such as "Zhang et al., 2025"."""
        entry = self.entry(key)
        people = [
            " ".join(map(str, person.rich_prelast_names + person.rich_last_names))
            for person in entry.persons["author"]
        ]
        names = f"{people[0]} et al." if len(people) > 2 else " and ".join(people)
        year = entry.fields.get("year")
        return f"{names}, {year}" if year else names

    def listing(self, keys: Iterable[str]) -> str:
        """The full entries of ``keys`` as a list, sorted by authors."""
        from pybtex.plugin import find_plugin

        style = find_plugin("pybtex.style.formatting", "plain")()
        backend = find_plugin("pybtex.backends", "plaintext")()
        chosen = style.sort([self.entry(key) for key in set(keys)])
        return "\n".join(
            "- " + " ".join(one.text.render(backend).split())
            for one in style.format_entries(chosen)
        )
