"""Every letter of a formula is on the page *Notation*, once."""

import json
import re
from collections import Counter

from tiny_book import ROOT

from glscl.search.index import SHORTLIST

FORMULA = re.compile(r"\$\$(.*?)\$\$|\$([^$\n]+)\$", re.DOTALL)
NO_LETTERS = re.compile(r"\\(?:text|mathrm)\{[^{}]*\}|\\(?:begin|end)\{\w+\}")
GREEK = {"alpha", "beta", "epsilon", "eta", "kappa", "lambda", "mu", "sigma", "tau"}
#: Greek commands that are written otherwise in this book, or are no quantity.
OTHER = {"varepsilon", "gamma", "delta", "theta", "rho", "phi", "psi", "omega", "nu"}


def letters(formula):
    """The Latin and Greek letters of a formula, in order, without names and functions."""
    found = re.findall(r"\\([A-Za-z]+)|([A-Za-z])", NO_LETTERS.sub(" ", formula))
    return [
        command or letter
        for command, letter in found
        if letter or command in GREEK | OTHER
    ]


def formulas(text):
    return [shown or inline for shown, inline in FORMULA.findall(text)]


def listed():
    """The first letter of every formula in the first column of a table, row by row."""
    page = (ROOT / "book/notation.md").read_text()
    rows = re.findall(r"^\| (\$[^|]+) \|", page, re.MULTILINE)
    return [{letters(formula)[0] for formula in formulas(row)} for row in rows]


def used():
    """The letters of all formulas of the chapters, with one chapter each."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                for formula in formulas("".join(cell["source"])):
                    found |= dict.fromkeys(letters(formula), path.stem)
    return found


def test_a_formula_is_read_letter_by_letter():
    assert letters(r"\text{loss} = \frac{\tau}{2} \sum_{f} w_{af}\, \exp(x)") == [
        *("tau", "f", "w", "a", "f", "x")
    ]


def test_every_letter_has_one_row_of_the_notation_page():
    times = Counter(letter for row in listed() for letter in row)
    assert {letter for letter, count in times.items() if count > 1} == set()
    assert {x: where for x, where in used().items() if x not in times} == {}


def test_the_shortlist_on_the_notation_page_is_that_of_a_search():
    page = (ROOT / "book/notation.md").read_text()
    assert f"{SHORTLIST} in this package's search |" in page


def test_every_letter_of_the_notation_page_is_used():
    assert {letter for row in listed() for letter in row} - used().keys() == set()
