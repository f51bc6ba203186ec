"""The whole book as one ZIP file that can be read from disk."""

import zipfile
from pathlib import Path

from book.builder import records
from glscl.util.files import atomic_path

NAME = "glscl-book.zip"
EPOCH = (2020, 1, 1, 0, 0, 0)  # the same pages give the same archive


def write(folder: Path) -> int:
    """Write all files below ``folder`` into one archive there; its size in bytes.

    Pages that mention the archive then link it; the copies inside it do not.
    """
    path = folder / NAME
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    with (
        atomic_path(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as pack,
    ):
        for file in files:
            name = f"glscl-book/{file.relative_to(folder).as_posix()}"
            about = zipfile.ZipInfo(name, EPOCH)
            about.external_attr = 0o644 << 16
            pack.writestr(about, file.read_bytes(), zipfile.ZIP_DEFLATED)
    size = path.stat().st_size
    for page in folder.glob("book/*.html"):
        text = page.read_text(encoding="utf-8")
        before, _, rest = text.partition(records.ARCHIVE[0])
        _, closing, after = rest.partition(records.ARCHIVE[1])
        if closing:
            page.write_text(before + _link(size) + after, encoding="utf-8")
    return size


def _link(size: int) -> str:
    return (
        f'<p>The whole book: <a href="../{NAME}" download>{NAME}</a> '
        f"({size / 1e6:.1f} MB). Unpack it and open <code>index.html</code>; no network "
        "is needed.</p>"
    )
