"""Checks of the rendered pages that need no browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html5lib
from bs4 import BeautifulSoup, Tag
from html5lib import HTMLParser

#: Attributes whose address a browser fetches.
FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
LINK_KINDS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}
#: Text that shows a failed build or markup that was not rendered.
TRACES = (
    r"Traceback \(most recent call last\)",
    r"\{glue:?\w*\}",
    r"\.ipynb::",
    r"\{(?:doc|eq|cite|ref|numref|claim)\}`",
    r"\bWARNING:",
    r"System Message:",
    r"<!-- runtime -->",
)
#: Text that tells a reader of the reference nothing.
EMPTY_WORDS = (r" at 0x[0-9a-f]{6,}", r"Alias for field number", r"<function ")
MAX_BYTES = 4_000_000  # of one file
#: The folder of downloadable chapters; each is one file that contains its scripts.
DOWNLOADS = "downloads"
#: Messages of html5lib about valid HTML: `&` in a script or an address, a redirect.
ALLOWED = {"expected-named-entity", "expected-doctype-but-got-start-tag"}


def pages_below(folder: Path) -> list[Path]:
    """The book's own pages, without the theme's files."""
    return sorted(p for p in folder.rglob("*.html") if "_static" not in p.parts)


def book_pages(folder: Path) -> list[Path]:
    """The pages of the book without the downloadable chapters."""
    return [page for page in pages_below(folder) if DOWNLOADS not in page.parts]


def check(folder: Path) -> Iterator[str]:
    """Every fault of every page below ``folder``, as ``page: fault``."""
    pages = pages_below(folder)
    if not pages:
        yield f"{folder}: no pages here"
    soups = {
        page.resolve(): BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for page in pages
    }
    anchors = {page: _anchors(soup) for page, soup in soups.items()}
    for page, soup in soups.items():
        name = page.relative_to(folder.resolve()).as_posix()
        faults = [
            *_resources(page, soup),
            *_alt_texts(soup),
            *_links(page, soup, anchors),
            *_traces(soup),
            *_structure(soup),
        ]
        if DOWNLOADS not in page.parts:
            faults += _standard(page.read_text(encoding="utf-8"))
        if page.stat().st_size > MAX_BYTES:
            faults.append(
                f"{page.stat().st_size} bytes, at most {MAX_BYTES} are allowed"
            )
        yield from (f"{name}: {fault}" for fault in faults)


def _resources(page: Path, soup: BeautifulSoup) -> Iterator[str]:
    """Every address that a browser fetches must be a file of the book."""
    for tag in soup.find_all(True):
        names = FETCHED.get(tag.name, ())
        if tag.name == "link" and LINK_KINDS & set(tag.get("rel") or []):
            names = ("href",)
        for name in names:
            address = str(tag.get(name) or "")
            if name == "srcset":
                address = address.split(" ")[0]
            yield from _local(page, address, f"<{tag.name} {name}>")
        for address in re.findall(r"url\(([^)]*)\)", str(tag.get("style") or "")):
            yield from _local(page, address.strip("'\""), f"<{tag.name} style>")
    for tag in soup.find_all("style"):
        for address in re.findall(r"url\(([^)]*)\)", tag.get_text()):
            yield from _local(page, address.strip("'\""), "<style>")


def _local(page: Path, address: str, where: str) -> Iterator[str]:
    parts = urlsplit(address)
    if not address or address.startswith("#") or parts.scheme == "data":
        return
    if parts.scheme or parts.netloc:
        yield f"{where} loads {address[:80]} from outside"
    elif not (page.parent / unquote(parts.path)).exists():
        yield f"{where} names {address[:80]}, which is not there"


def _alt_texts(soup: BeautifulSoup) -> Iterator[str]:
    """Pictures, drawings and videos must have a text alternative."""
    for tag in soup.find_all("img"):
        if not tag.has_attr("alt"):
            yield f"<img> without alt: {str(tag.get('src'))[:60]}"
    for tag in soup.select(".cell_output img"):
        if not str(tag.get("alt") or "").strip() or str(tag["alt"]).startswith("../"):
            yield f"a figure without alt text: {str(tag.get('src'))[:60]}"
    for tag in soup.select("svg[role=img], video"):
        if not str(tag.get("aria-label") or "").strip():
            yield f"<{tag.name}> without aria-label"
    for tag in soup.select("figure svg"):
        outer = tag.find_parent("svg") is None
        if outer and tag.get("role") != "img":
            yield "a drawing without role=img and aria-label"


def _links(
    page: Path, soup: BeautifulSoup, anchors: dict[Path, set[str]]
) -> Iterator[str]:
    """Links inside the book must have a target, the anchor included."""
    for tag in soup.find_all("a", href=True):
        parts = urlsplit(str(tag["href"]))
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            yield f"link to {tag['href']}, which is not there"
        elif target in anchors and unquote(parts.fragment) not in anchors[target]:
            yield f"link to {tag['href']}: no such place on the page"


def _anchors(soup: BeautifulSoup) -> set[str]:
    """Every anchor of a page; the empty string is the page itself."""
    named = soup.find_all(True, attrs={"name": True})
    return {
        "",
        *(str(tag["id"]) for tag in soup.find_all(id=True)),
        *(str(tag["name"]) for tag in named),
    }


def _traces(soup: BeautifulSoup) -> Iterator[str]:
    article = soup.select_one("article")
    if article is None:
        return
    prose = _without_code(article)
    for pattern in TRACES:
        found = re.search(pattern, prose)
        if found:
            yield f"the page shows `{found[0]}`"
    reference = "\n".join(part.get_text() for part in article.select("dl.py"))
    for pattern in EMPTY_WORDS:
        found = re.search(pattern, reference)
        if found:
            yield f"the reference shows `{found[0]}`"


def _without_code(article: Tag) -> str:
    """The article without listings and docstrings, which may quote any markup."""
    copy = BeautifulSoup(str(article), "html.parser")
    for listing in copy.select("pre, .cell_input, dl.py"):
        listing.decompose()
    return str(copy)


def _standard(text: str) -> Iterator[str]:
    """Errors of the HTML standard's parser: tags unclosed, crossed or misplaced."""
    parser = HTMLParser()
    parser.parse(text)
    for (line, _), code, about in parser.errors:
        if code not in ALLOWED:
            yield f"line {line}: {html5lib.constants.E[code] % about}"


def _structure(soup: BeautifulSoup) -> Iterator[str]:
    """A page has one top heading, and no two elements with the same id."""
    article = soup.select_one("article")
    if article is not None and len(article.find_all("h1")) != 1:
        yield f"{len(article.find_all('h1'))} top headings, expected one"
    seen: set[str] = set()
    for tag in soup.find_all(id=True):
        name = str(tag["id"])
        if name in seen:
            yield f"two elements have the id {name}"
        seen.add(name)
