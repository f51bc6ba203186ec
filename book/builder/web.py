"""What pages need when they are published: descriptions, cards, a site map, a 404 page.

Absolute addresses appear only where the address of the pages is known, see
``address.py``; everything else is the same offline.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup

from book.builder import address
from book.builder.pages import book_pages
from book.builder.project import Project

CARD = "_static/card.png"  # 1200 × 630, drawn by readme_picture.py
CARD_SIZE = (1200, 630)
LENGTH = 160  # characters of a description, about what search engines show
#: Pages that list others, and so are no results of a search.
LISTS = ("genindex.html", "py-modindex.html", "search.html")
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_EMBEDDED = re.compile(r"data:[\w/+;=-]+,[A-Za-z0-9+/=]+")  # pictures and videos
_FIRST = re.compile(r"url=([^\"]+)\"")


def describe(project: Project, folder: Path, name: str) -> None:
    """Give every page of the book below ``folder`` a description and a card.

    ``name``: the title of the book.
    """
    base = address.pages(project)
    for path in book_pages(folder):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(folder).as_posix()
        if where == "index.html":
            text = _start(folder, text)
        title, said = _title(text, name), description(text)
        text = _TITLE.sub(lambda _, title=title: f"<title>{title}</title>", text, 1)
        tags = "\n".join(_tags(title, said, name, base, where))
        path.write_text(text.replace("</head>", f"{tags}\n</head>", 1), "utf-8")


def _start(folder: Path, redirect: str) -> str:
    """The page at the root, which leads to the first page and describes it."""
    found = _FIRST.search(redirect)
    first = found[1] if found else "book/intro.html"
    text = (folder / first).read_text(encoding="utf-8")
    title = _TITLE.search(text)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        f"<title>{title[1] if title else first}</title>\n"
        f'<meta http-equiv="Refresh" content="0; url={first}" />\n</head>\n<body>\n'
        f'<p><a href="{first}">{description(text) or first}</a></p>\n'
        "</body>\n</html>\n"
    )


def _title(text: str, name: str) -> str:
    """The title of a page, without the book's title twice."""
    found = _TITLE.search(text)
    title = html.unescape(found[1]).strip() if found else name
    return html.escape(name if title == f"{name} — {name}" else title)


def description(text: str) -> str:
    """The first sentences of a page's prose, as far as they fit; may be empty."""
    soup = BeautifulSoup(_EMBEDDED.sub("", text), "html.parser")
    top = soup.select_one("article") or soup
    for noise in top.select("script, style, nav, figure, .cell, .math, table, details"):
        noise.decompose()
    for paragraph in top.select("p"):
        words = " ".join(paragraph.get_text().split())
        if len(words) > LENGTH // 3:
            return html.escape(_shortened(words))
    return ""


def _shortened(text: str) -> str:
    """``text`` up to the last sentence, or else the last word, that fits."""
    if len(text) <= LENGTH:
        return text
    start = text[:LENGTH]
    sentence = start.rfind(". ")
    if sentence > LENGTH // 3:
        return start[: sentence + 1]
    return start[: start.rfind(" ")] + " …"


def _tags(title: str, said: str, name: str, base: str, where: str) -> Iterator[str]:
    """The elements of a page's head for search engines and for links to it."""
    short = html.escape(html.unescape(title).partition(" — ")[0])
    cards = {"type": "article", "site_name": html.escape(name), "title": short}
    if said:
        yield f'<meta name="description" content="{said}" />'
        cards["description"] = said
    if base:
        place = "" if where == "index.html" else where
        cards |= {"url": base + place, "image": base + CARD}
        width, height = map(str, CARD_SIZE)
        cards |= {"image:width": width, "image:height": height}
        cards["image:alt"] = "A sentence, the frames of its video, and their weights"
        if where == "index.html":  # the theme gives it to all pages that it makes
            yield f'<link rel="canonical" href="{base}" />'
    for key, value in cards.items():
        yield f'<meta property="og:{key}" content="{value}" />'
    kind = "summary_large_image" if base else "summary"
    yield f'<meta name="twitter:card" content="{kind}" />'
    if where in LISTS:
        yield '<meta name="robots" content="noindex" />'


def add_server_files(project: Project, folder: Path, name: str) -> None:
    """Write the page for addresses that do not exist, and the site map.

    The site map needs the address of the pages; without one there is none.
    """
    base = address.pages(project)
    (folder / "404.html").write_text(_not_found(base, html.escape(name)), "utf-8")
    if base:
        places = [page.relative_to(folder).as_posix() for page in book_pages(folder)]
        shown = [p for p in places if p.startswith(("book/", "notebooks/"))]
        urls = "".join(f"<url><loc>{base}{place}</loc></url>\n" for place in shown)
        (folder / "sitemap.xml").write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
            f"{urls}</urlset>\n",
            encoding="utf-8",
        )


def _not_found(base: str, name: str) -> str:
    """One file that needs no other: a server shows it at any depth."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>Page not found — {name}</title>\n"
        '<meta name="robots" content="noindex" />\n'
        "<style>:root{color-scheme:light dark}body{font:1.1rem/1.6 sans-serif;"
        "max-width:40rem;margin:4rem auto;padding:0 1rem}a{color:inherit}</style>\n"
        "</head>\n<body>\n"
        "<main>\n<h1>This page does not exist</h1>\n"
        f'<p>It may have moved: <a href="{base}index.html">the first page of the '
        f'book</a> and <a href="{base}search.html">its search</a> find it.</p>\n'
        "</main>\n</body>\n</html>\n"
    )
