"""Published pages describe themselves; addresses are absolute only where one is known."""

import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from bs4 import BeautifulSoup
from tiny_book import ROOT, chapter, tiny_book

from book.builder import pages, web
from book.builder.readme_picture import STATIC

PAGE = (
    "<!DOCTYPE html><html><head><title>{title} &#8212; A book</title></head><body>"
    "<article><h1>x</h1><p>Short.</p><p>{prose}</p></article></body></html>"
)
PROSE = (
    "A first sentence of a page, long enough to say what it is about. A second one, "
)
PROSE += "far longer: "
PROSE += (
    "it goes on & on, and no search engine would show all of it, since it <b>has</b>"
)
PROSE += " more words than fit, and then some more."
FIRST = "A first sentence of a page, long enough to say what it is about."


@pytest.fixture
def rendered(tmp_path):
    """Three pages as Jupyter Book leaves them."""
    project = tiny_book(tmp_path / "project", {"01_a": chapter()})
    folder = tmp_path / "html"
    (folder / "book").mkdir(parents=True)
    redirect = '<meta http-equiv="Refresh" content="0; url=book/intro.html" />\n'
    (folder / "index.html").write_text(redirect)
    intro = PAGE.format(title="A book", prose=PROSE)
    (folder / "book/intro.html").write_text(intro)
    (folder / "search.html").write_text(PAGE.format(title="Search", prose=""))
    return project, folder


def head(path):
    soup = BeautifulSoup(path.read_text(), "html.parser")
    found = {"title": soup.title.get_text()}
    for tag in soup.find_all("meta"):
        found[tag.get("property") or tag.get("name")] = tag.get("content")
    for tag in soup.find_all("link", rel="canonical"):
        found["canonical"] = tag["href"]
    return found


def test_without_an_address_pages_have_titles_and_descriptions(rendered):
    project, folder = rendered
    web.describe(project, folder, "A book")
    web.add_server_files(project, folder, "A book")
    for name in ("index.html", "book/intro.html"):
        found = head(folder / name)
        assert found["title"] == "A book"
        assert found["description"] == found["og:description"] == FIRST
        assert not {"canonical", "og:image", "og:url"} & set(found)
    assert head(folder / "search.html")["robots"] == "noindex"
    assert not (folder / "sitemap.xml").exists()
    assert "Refresh" in (folder / "index.html").read_text()
    faults = list(pages.check(folder))
    assert [f for f in faults if "404" in f or "index" in f] == []


def test_with_an_address_cards_and_the_site_map_are_absolute(rendered):
    project, folder = rendered
    config = yaml.safe_load((project.root / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/owner/name"
    (project.root / "_config.yml").write_text(yaml.safe_dump(config))
    web.describe(project, folder, "A book")
    web.add_server_files(project, folder, "A book")
    base = "https://owner.github.io/name/"
    found = head(folder / "book/intro.html")
    assert found["og:url"] == base + "book/intro.html"
    assert found["og:image"] == base + web.CARD
    assert found["twitter:card"] == "summary_large_image"
    assert head(folder / "index.html")["canonical"] == base
    site_map = ElementTree.parse(folder / "sitemap.xml")
    assert [x.text for x in site_map.iter() if x.tag.endswith("loc")] == [
        base + "book/intro.html"
    ]
    assert f'href="{base}index.html"' in (folder / "404.html").read_text()


def test_the_card_has_the_size_that_pages_state():
    from PIL import Image

    with Image.open(STATIC / "card.png") as card:
        assert card.size == web.CARD_SIZE
    assert (ROOT / "book" / web.CARD).is_file()


def test_a_description_ends_with_a_sentence_or_a_word():
    long = "words and more words without an end " * 10
    found = web.description(f"<article><p>{long}</p></article>")
    assert len(found) <= web.LENGTH + 2
    assert found.endswith(" …")
    assert long.startswith(found.removesuffix(" …"))
    assert web.description("<article><p>Too short</p></article>") == ""
