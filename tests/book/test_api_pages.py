"""The reference names every module, command, option and setting once, in words."""

import re
from dataclasses import fields

import pytest
import yaml
from tiny_book import ROOT

from book.builder import command_line, docstrings, inserts, reference
from book.builder.project import BuildError, Project
from glscl.config import EERCFConfig, ModelConfig, RunOptions, TrainConfig
from glscl.model import GLSCL, Losses
from glscl.runs import DataSource
from glscl.search.windows import Windows

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
        if not path.stem.startswith("_") and path.parent.name != "cli"
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


# ---- the command line ----------------------------------------------------------------


def test_every_command_is_on_the_page_with_all_its_options():
    page = ROOT / "book/command_line.md"
    named = re.findall(r"^<!-- command: (.+) -->$", page.read_text(), re.M)
    assert sorted(named) == sorted(command_line.commands())
    shown = inserts.fill(Project(ROOT), page.name, page.read_text())
    for text in (
        "glscl data make [OPTIONS]",
        "--micro-batch",
        "[default: cpu]",
        "{model}",
    ):
        assert text in shown
    assert shown.count("<code>--help") == len(named)
    assert " at 0x" not in shown


def test_an_unknown_command_stops_the_build():
    with pytest.raises(BuildError, match="No command 'glscl fly'"):
        command_line.make(Project(ROOT), "fly")


# ---- settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [ModelConfig, EERCFConfig, TrainConfig, RunOptions, DataSource, Windows]
)
def test_every_setting_has_values_a_default_a_meaning_and_a_source(kind):
    rows = "\n".join(reference.table(kind)).split("   * - ")[2:]
    assert [re.match(r"``(\w+)``", row)[1] for row in rows] == [
        field.name for field in fields(kind)
    ]
    for row in rows:
        cells = [cell.strip() for cell in row.split("\n     - ")]
        assert len(cells) == 5
        assert all(cells), row
        assert re.search(r"released|this project", cells[4]), row


def test_the_source_of_a_default_is_found_by_comparing():
    assert (
        reference.source_of(ModelConfig, "temperature", 3.0)
        == "as released, ``--temp``"
    )
    other = reference.source_of(ModelConfig, "mask_padding", True)
    assert other == "this project; as released: ``False``"
    assert reference.source_of(RunOptions, "device", "cpu") == "this project"


def documented(what, name, subject):
    lines = ["Words."]
    reference.add_settings(None, what, name, subject, None, lines)
    return "\n".join(lines)


def test_open_arguments_of_a_model_are_spelled_out():
    text = documented("method", "glscl.model.GLSCL.from_preset", GLSCL.from_preset)
    assert "``changes``: any of ``backbone``, ``pretrained``," in text
    assert "``idl_sides``; see :class:`~glscl.config.ModelConfig`." in text
    assert documented("method", "glscl.model.GLSCL.save", GLSCL.save) == "Words."
    assert documented("class", "glscl.model.Losses", Losses) == "Words."


def test_a_field_that_python_describes_is_left_out():
    assert reference.skip(None, "class", "total", Losses.total, False, None)
    assert reference.skip(None, "class", "save", GLSCL.save, False, None) is None
    text = "(names=<function Benchmark.<lambda>>, seconds=None)"
    found = reference.readable(None, "function", "x", None, None, text, None)
    assert found == ("(names=…, seconds=None)", None)


def test_the_signature_of_settings_has_no_types():
    found = reference.readable(None, "class", "x", Windows, None, "(…)", None)
    assert found == ("(seconds=10.0, overlap=0.5)", None)


# ---- the rendered pages ----------------------------------------------------------------

SHOWN = "Reference\n=========\n\n" + "".join(
    f".. autoclass:: glscl.{name}\n   :members:\n\n"
    for name in ("model.GLSCL", "model.Losses", "config.ModelConfig")
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Three classes as the book's own settings of Sphinx show them."""
    from bs4 import BeautifulSoup
    from sphinx.application import Sphinx

    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    (source / "index.rst").write_text(SHOWN)
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    chosen = {name: config[name] for name in config if name.startswith("autodoc_")}
    extensions = ["book.builder.docstrings", "book.builder.reference"]
    chosen |= {"extensions": ["sphinx.ext.autodoc", *extensions], "html_theme": "basic"}
    folders = [str(folder) for folder in (made, made / "doctrees")]
    Sphinx(str(source), None, *folders, "html", chosen, status=None).build()
    return BeautifulSoup((made / "index.html").read_text(), "html.parser")


def test_inherited_methods_are_shown_but_not_those_of_torch(rendered):
    for name in ("from_preset", "save", "load", "encode_text", "similarity"):
        assert rendered.find(id=f"glscl.model.GLSCL.{name}"), name
    for name in ("register_buffer", "state_dict", "to"):
        assert not rendered.find(id=f"glscl.model.GLSCL.{name}"), name


def test_fields_stand_in_the_table_and_nowhere_else(rendered):
    table = rendered.select_one("dl.class table.docutils")
    assert len(table.select("tbody tr")) == len(fields(ModelConfig))
    assert not rendered.find(id="glscl.config.ModelConfig.alpha")
    assert "Alias for field number" not in rendered.get_text()
    assert "**changes" in rendered.get_text()
