"""Draw the picture of the README: a caption and its weights for the frames of a clip.

``python book/builder/readme_picture.py`` writes it into ``book/_static``, with a card
for links to the book that shows it. The weights are those of the untrained GIM on the
features of the shipped mini CLIP.
"""

from pathlib import Path

import torch

from book.builder.web import CARD, CARD_SIZE
from book.kit import plots
from glscl.backbone import load_backbone
from glscl.data import frames
from glscl.gim import frame_weights
from glscl.mini.grammar import captions_of
from glscl.mini.render import render_clip
from glscl.mini.scenes import draw_clip

STATIC = Path(__file__).resolve().parent.parent / "_static"
SUBTITLE = "Text-video retrieval with CLIP, rebuilt in the open"
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
    figure = plots.frame_strip(pictures, weights=weights, title=f"“{caption}”")
    figure.set_facecolor("white")
    path = STATIC / "readme.png"
    figure.savefig(
        path, dpi=160, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None}
    )
    draw_card(path)


def draw_card(picture: Path) -> None:
    """The picture below the title of the book, in the size that links show."""
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", CARD_SIZE, "white")
    draw = ImageDraw.Draw(card)
    for text, size, top in (("GLSCL, exactly", 84, 70), (SUBTITLE, 34, 180)):
        font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
        draw.text((60, top), text, "#1a1a2e", font)
    with Image.open(picture) as strip:
        place = (CARD_SIZE[0] - strip.width) // 2, 290
        card.paste(strip, place, strip.getchannel("A"))
    card.save(STATIC / Path(CARD).name, optimize=True)


if __name__ == "__main__":
    main()
