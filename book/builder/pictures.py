"""Make pictures inside the rendered pages smaller: lossless WebP instead of PNG."""

import base64
import io
import re
from functools import cache
from pathlib import Path

PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def shrink(folder: Path) -> None:
    """Re-encode the pictures of all pages below ``folder`` without loss."""
    for path in folder.glob("_static/**/*.map"):
        path.unlink()  # source maps, for developers of the theme only
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            PICTURE.sub(lambda found: smaller(found[1]), text), encoding="utf-8"
        )


@cache
def smaller(encoded: str) -> str:
    """The data URI of a PNG's pixels: as WebP where that is smaller, else unchanged."""
    # Imported late: only pages with pictures need it.
    from PIL import Image

    packed = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        picture.save(packed, "WEBP", lossless=True, exact=True)
    new = base64.b64encode(packed.getvalue()).decode()
    if len(new) >= len(encoded):
        return f"data:image/png;base64,{encoded}"
    return f"data:image/webp;base64,{new}"
