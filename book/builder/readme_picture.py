"""Draw the picture of the README: a caption and its weights for the frames of a clip.

``python book/builder/readme_picture.py`` writes it into ``book/_static``, with a card
for links to the book that shows it. The weights are those of the untrained GIM on the
features of the shipped mini CLIP.
"""

from pathlib import Path

import torch

from book.builder.browser import LAUNCH, program
from book.builder.web import CARD, CARD_SIZE
from book.kit import plots
from glscl.backbone import load_backbone
from glscl.data import frames
from glscl.gim import frame_weights
from glscl.mini.grammar import captions_of
from glscl.mini.render import render_clip
from glscl.mini.scenes import draw_clip

STATIC = Path(__file__).resolve().parent.parent / "_static"
TITLE = "Text-video retrieval with CLIP"
SUBTITLE = "GLSCL reproduced, explained, measured"
CLIP = ("test", 1)
TEMPERATURE = 30.0
F = 12


@torch.no_grad()
def main() -> None:
    """Encode one clip, compute its frame weights for its first caption, draw both."""
    clip = draw_clip(*CLIP)
    caption = captions_of(clip)[0].text
    chosen = frames.sample_indices(36, 8.0, F, 8.0)
    pictures = render_clip(clip)[chosen]
    model = load_backbone("mini")
    pixels = frames.preprocess(
        pictures, model.image_size, model.image_mean, model.image_std
    )
    sentence = model.encode_text(*model.tokenize([caption], 32)).captions
    features = model.encode_image(pixels)[None]
    mask = torch.ones(1, F, dtype=torch.bool)
    weights = frame_weights(sentence, features, mask, TEMPERATURE)[0, 0]
    strips = plots.frame_strip(pictures, weights=weights, title=f"“{caption}”")
    path = STATIC / "readme.png"
    photograph(strips.html("A clip and the weights of its frames"), path)
    draw_card(path)


def photograph(markup: str, path: Path) -> None:
    """Markup as a picture of 1130 pixels, black on white, made by Chromium."""
    from playwright.sync_api import sync_playwright

    style = "width:700px;padding:8px;background:white;font:14px DejaVu Sans,sans-serif"
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program(), args=list(LAUNCH))
        page = chromium.new_page(device_scale_factor=1.58)
        page.set_content(f'<div id="picture" style="{style}">{markup}</div>')
        page.locator("#picture").screenshot(path=path)
        chromium.close()


def draw_card(picture: Path) -> None:
    """The picture below the title of the book, in the size that links show."""
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", CARD_SIZE, "white")
    draw = ImageDraw.Draw(card)
    for text, size, top in ((TITLE, 62, 80), (SUBTITLE, 36, 180)):
        font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
        draw.text((60, top), text, "#1a1a2e", font)
    with Image.open(picture) as strip:
        place = (CARD_SIZE[0] - strip.width) // 2, 290
        card.paste(strip, place)
    card.save(STATIC / Path(CARD).name, optimize=True)


if __name__ == "__main__":
    main()
