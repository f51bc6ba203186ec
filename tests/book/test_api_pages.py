"""The reference names every module once, and docstrings keep the lines they set off."""

import re

from tiny_book import ROOT

from book.builder import docstrings

PAGES = sorted((ROOT / "book").glob("api*.md"))


def test_every_public_module_is_on_one_page_of_the_reference():
    shown = [
        name
        for page in PAGES
        for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(), re.M)
    ]
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "glscl").rglob("*.py")
        if not path.stem.startswith("_")
    }
    assert sorted(shown) == sorted(there)


def kept(text):
    lines = text.splitlines()
    docstrings.keep_lines(None, "function", "f", None, None, lines)
    return "\n".join(lines)


def test_a_block_that_is_set_off_keeps_its_lines():
    assert kept("Words:\n\n    a\n    b\n\nMore.") == (
        "Words:\n\n::\n\n    a\n    b\n\nMore."
    )


def test_lists_and_listings_stay_as_they_are():
    for text in (
        "Words::\n\n    a",
        "- item\n\n    more of it",
        ".. note::\n\n    text",
        "Words::\n\n    a\n\n        b",
        "Term\n    its definition",
    ):
        assert kept(text) == text
