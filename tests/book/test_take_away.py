"""What a reader takes away: copies of chapters, one archive, records of the build."""

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_markdown_cell
from PIL import Image
from tiny_book import ROOT, chapter, tiny_book

from book import build
from book.builder import archive, downloads, pictures, records
from book.builder.literature import Literature
from book.builder.project import BuildError

ROLES = (
    "(ch01-mark)=\n## More\n\nSee {doc}`/book/intro`, {doc}`01_a`, {doc}`this <01_a>`, "
    "{eq}`eq-a-one`, {ref}`here <ch01-mark>` and {cite}`someone`.\n\n"
    "$$\nx = 1\n$$ (eq-a-one)\n"
)
PAGES = {
    "provenance.md": "# Provenance\n\n<!-- record: provenance -->\n",
    "status.md": "# Status\n\n<!-- record: status -->\n\n<!-- record: stored -->\n",
    "take_away.md": "# Away\n\n<!-- record: archive -->\n\n<!-- record: downloads -->\n",
    "citing.md": "# Citing\n\n<!-- record: bibtex -->\n",
}


def with_pages(root):
    """A book of one chapter that uses every role, and the pages about the build."""
    notebook = chapter()
    notebook.cells.append(new_markdown_cell(ROLES, id="roles"))
    project = tiny_book(root, {"01_a": notebook})
    for name, text in PAGES.items():
        (project.book / name).write_text(text)
    (root / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text())
    library = "\n".join(
        f"@misc{{{key}, title={{T}}, author={{A}}, year={{2020}}}}"
        for key in ("glscl", "eercf", "glccl")
    )
    with (project.book / "references.bib").open("a") as bib:
        bib.write(library + "\n")
    stored = {"provenance": {"command": "run it", "commit": "0123456789abcdef-dirty"}}
    (project.book / "results/long.json").write_text(json.dumps(stored))
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    toc["chapters"] += [{"file": f"book/{Path(name).stem}"} for name in PAGES]
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    return project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    project = with_pages(tmp_path_factory.mktemp("away"))
    assert build.main(["book", "--params", "smoke"], project.root) == 0
    return project


def page(project, name):
    return (project.html / f"book/{name}.html").read_text()


def test_a_copy_is_plain_markdown_with_its_numbers(made):
    copied = nbformat.read(made.html / "downloads/01_a.ipynb", as_version=4)
    text = "\n".join(c.source for c in copied.cells if c.cell_type == "markdown")
    assert "a number: 6.0." in text
    assert "See *A book*, *A chapter*, *this*, (1), here and (One, 2020)" in text
    assert r"\tag{1}$$" in text
    assert "parameters `smoke`" in text
    assert not re.search(r"\{[\w:]+\}`|^\([\w-]+\)=|glue", text, re.M)
    assert "seed 3" in str(copied.cells[-3].outputs)


def test_roles_without_a_page_become_words(made):
    words = downloads.PlainMarkdown(made)
    text = words.convert(
        "{cite}`glscl,someone` {term}`rank <ranks>` {glue:text}`x:.1f`", "01_a"
    )
    assert text == "(A, 2020; One, 2020) rank (not run)"
    with pytest.raises(BuildError, match=r"01_a: no plain words for the role \{new\}"):
        words.convert("{new}`x`", "01_a")


def test_a_box_becomes_a_quotation(made):
    box = ":::{admonition} Words\n:class: note\n\nOne.\n\n- two\n:::"
    text = downloads.PlainMarkdown(made).convert(f"Before.\n\n{box}\n\nAfter.", "01_a")
    assert text == "Before.\n\n> **Words**\n>\n> One.\n>\n> - two\n\nAfter."


LIBRARY = """
@misc{three, title={On Three}, author={van den A, B and Ö, C and D, E}, year={2021}}
@misc{two, title={On Two}, author={Roe, J and Doe, J}, year={2019}, note={n}}
@misc{group, title={A Tool}, author={{The Group}}}
"""


def test_sources_are_said_by_authors_and_year_and_listed_in_full(tmp_path):
    path = tmp_path / "references.bib"
    path.write_text(LIBRARY)
    literature = Literature(path)
    assert literature.short("three") == "van den A et al., 2021"
    assert literature.short("two") == "Roe and Doe, 2019"
    assert literature.short("group") == "The Group"
    listing = literature.listing(["two", "group", "two"]).splitlines()
    assert listing == ["- J Roe and J Doe. On two. 2019. n.", "- The Group. A tool."]
    with pytest.raises(BuildError, match="no entry 'four'"):
        literature.short("four")


def test_a_copy_lists_what_it_cites(made):
    copied = nbformat.read(made.html / "downloads/01_a.ipynb", as_version=4)
    last = copied.cells[-1].source
    assert last == "## References\n\n- Some One. Title. 2020."


def test_a_script_is_python_and_a_page_needs_no_other_file(made):
    script = (made.html / "downloads/01_a.py").read_text()
    compile(script, "01_a.py", "exec")
    copied = (made.html / "downloads/01_a.html").read_text()
    head, body = copied.rsplit("</head>", 1)
    assert not re.search(r'(src|href)="(?!#|data:)', body)
    assert "<link" not in head
    assert "<script src" not in head
    assert "MathJax = " in head
    assert "<summary>Values this page was run with</summary>" in copied
    assert "In [" not in copied


def test_every_chapter_links_its_copies(made):
    text = (made.html / "notebooks/01_a.html").read_text()
    for kind in records.KINDS:
        assert f'href="../downloads/01_a.{kind}"' in text
        assert f'href="../downloads/01_a.{kind}"' in page(made, "take_away")
        assert (made.html / f"downloads/01_a.{kind}").is_file()


def test_the_archive_holds_the_book_and_its_size_is_said(made):
    path = made.html / archive.NAME
    size = f"({path.stat().st_size / 1e6:.1f} MB)"
    assert size in page(made, "take_away")
    assert f'href="../{archive.NAME}"' in page(made, "take_away")
    with zipfile.ZipFile(path) as pack:
        names = set(pack.namelist())
        inside = pack.read("glscl-book/book/take_away.html").decode()
    there = {
        f"glscl-book/{file.relative_to(made.html).as_posix()}"
        for file in made.html.rglob("*")
        if file.is_file() and file != path
    }
    assert names == there
    assert archive.NAME not in inside
    assert "You are reading a copy" in inside


def test_the_same_pages_give_the_same_archive(tmp_path):
    sums = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "index.html").write_text("x" * 1000)
        archive.write(folder)
        sums.append((folder / archive.NAME).read_bytes())
    assert sums[0] == sums[1]


def test_provenance_and_status_say_what_the_manifest_says(made):
    entry = json.loads((made.build / "manifest.json").read_text())["notebooks"]["01_a"]
    text = page(made, "provenance")
    for key in ("source", "output"):
        assert entry[key][:12] in text
    for key in ("commit", "device"):
        assert entry[key] in text
    assert all(version in text for version in entry["versions"].values())
    status = page(made, "status")
    assert f"{entry['seconds']:.0f} s on {entry['device']}" in status
    assert "0123456789ab+" in status
    assert "run it" in status


def test_what_was_never_run_is_said(tmp_path):
    project = tiny_book(tmp_path, {"01_a": chapter(), "02_b": chapter()})
    (project.notebooks / "params/gpu.yaml").write_text("{}\n")
    kept = {"01_a": {"smoke": {"device": "CPU (2 cores)", "seconds": 3, "commit": "c"}}}
    (project.book / records.STORED_RUNS).write_text(json.dumps(kept))
    said = records.make(project, "status")
    assert "3 s on CPU (2 cores), at <code>c</code>" in said
    assert "Never run with the parameters <code>gpu</code>: every chapter." in said
    assert "<code>smoke</code>: <a" in said  # 02_b alone
    assert "No chapter has been run on a GPU." in said
    kept["02_b"] = {"gpu": {"device": "A GPU", "seconds": 3, "commit": "c"}}
    (project.book / records.STORED_RUNS).write_text(json.dumps(kept))
    assert "No chapter has been run on a GPU." not in records.make(project, "status")


def test_runs_are_kept_with_the_sources_when_asked(made):
    assert build.main(["record"], made.root) == 0
    kept = json.loads((made.book / records.STORED_RUNS).read_text())
    assert kept["01_a"]["smoke"]["device"].startswith("CPU")
    (made.book / records.STORED_RUNS).unlink()


def test_an_unknown_record_is_refused(made):
    with pytest.raises(BuildError, match="No record 'status2'; known: provenance"):
        records.make(made, "status2")


def test_citations_can_be_copied():
    own, glscl, *_ = records.bibtex(build.Project(ROOT)).split(
        '<div class="highlight">'
    )[1:]
    assert "@software{glscl_book," in own
    assert "version = {" in own
    assert "@article{glscl," in glscl


def test_pictures_get_smaller_and_keep_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 2, (16, 32, 4), dtype=np.uint8) * 255
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", compress_level=0)
    address = pictures.smaller(base64.b64encode(packed.getvalue()).decode())
    kind, _, encoded = address.partition(",")
    assert kind == "data:image/webp;base64"
    again = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    assert (np.asarray(again) == pixels).all()
