"""What a clip of the built-in benchmark shows: attributes, shots, clips.

A clip is three shots; a shot is one object that does one thing on one background.
Every clip is drawn from a random generator seeded by its id, so the same id is the same
clip whatever else is generated.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

SIDE = 64
FPS = 8
CLIP_FRAMES = 36
SHOTS = 3
MIN_SHOT_FRAMES = 8

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "large")
PATTERNS = ("plain", "stripes", "checks", "dots")
TONES = ("light", "dark")
MOTIONS = ("left", "right", "up", "down", "spin", "grow", "shrink", "blink", "still")

#: The attributes a caption can name, with their values.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "size": SIZES,
    "pattern": PATTERNS,
    "tone": TONES,
    "motion": MOTIONS,
}
#: Shapes that are the same at every angle, so that their spinning cannot be seen.
ROUND = ("circle", "ring")
#: Motions during which the size is not one thing to name.
RESIZING = ("grow", "shrink")

SPLITS = ("train", "val", "test")
# Of ten compositions eight belong to train, one to val, one to test.
_SPLIT_OF_BUCKET = ("train",) * 8 + ("val", "test")


@dataclass(frozen=True)
class Shot:
    """One object doing one thing from frame ``start`` up to, not including, ``stop``.

    The first six fields are what captions talk about. The others vary freely: where
    the motion is centred (``x``, ``y`` in pixels), the tilt and the direction of spin
    (degrees, ±1), where the pattern lies (``phase_x``, ``phase_y`` in pixels) and the
    exact shade (levels of 255 added to object and background).
    """

    colour: str
    shape: str
    size: str
    pattern: str
    tone: str
    motion: str
    start: int
    stop: int
    x: float
    y: float
    tilt: float
    turn: int
    phase_x: float
    phase_y: float
    object_shade: tuple[int, int, int]
    background_shade: int

    @property
    def frames(self) -> int:
        """Length in frames."""
        return self.stop - self.start

    def named(self) -> dict[str, str]:
        """The six attributes that captions talk about."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


@dataclass(frozen=True)
class Clip:
    """A clip: its id and its shots, which follow each other without a gap."""

    id: str
    shots: tuple[Shot, ...]


def motions_of(shape: str) -> tuple[str, ...]:
    """The motions one can see ``shape`` make."""
    if shape in ROUND:
        return tuple(motion for motion in MOTIONS if motion != "spin")
    return MOTIONS


def draw_shot(rng: random.Random, start: int, stop: int, **fixed: str) -> Shot:
    """A random shot; ``fixed`` pins attributes by name."""
    values = {
        name: fixed.get(name) or rng.choice(ATTRIBUTES[name])
        for name in ("colour", "shape", "size", "pattern", "tone")
    }
    motion = fixed.get("motion") or rng.choice(motions_of(values["shape"]))
    shade = partial(rng.randint, -12, 12)
    # Movers cross the middle of their axis; the rest may be anywhere.
    x = rng.uniform(29, 35) if motion in ("left", "right") else rng.uniform(16, 48)
    y = rng.uniform(29, 35) if motion in ("up", "down") else rng.uniform(16, 48)
    return Shot(
        **values,
        motion=motion,
        start=start,
        stop=stop,
        x=round(x, 2),
        y=round(y, 2),
        tilt=round(rng.uniform(-10, 10), 2),
        turn=rng.choice((-1, 1)),
        phase_x=round(rng.uniform(0, 16), 2),
        phase_y=round(rng.uniform(0, 16), 2),
        object_shade=(shade(), shade(), shade()),
        background_shade=shade(),
    )


def composition(clip: Clip) -> tuple[tuple[str, str], ...]:
    """The three objects, colour and shape, in no particular order.

    No two splits share a composition, so a test clip never shows three objects that
    were seen together in training, in any order, size, motion or background.
    """
    return tuple(sorted((shot.colour, shot.shape) for shot in clip.shots))


def split_of(clip: Clip) -> str:
    """The split that the composition of ``clip`` belongs to."""
    words = " ".join(word for pair in composition(clip) for word in pair)
    bucket = hashlib.sha256(words.encode()).digest()[0] * 10 // 256
    return _SPLIT_OF_BUCKET[bucket]


def draw_clip(split: str, index: int, seed: int = 0) -> Clip:
    """Clip ``index`` of ``split``, the same one every time.

    It depends on nothing but these three values, so a smaller split is a prefix of a
    larger one. The three objects of a clip differ in colour or shape.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {list(SPLITS)}.")
    clip_id = f"{split}-{index:05d}"
    rng = random.Random(f"glscl clip {seed} {clip_id}")
    while True:
        clip = Clip(clip_id, tuple(_draw_shots(rng)))
        if len(set(composition(clip))) == SHOTS and split_of(clip) == split:
            return clip


def _draw_shots(rng: random.Random) -> Iterator[Shot]:
    spare = CLIP_FRAMES - SHOTS * MIN_SHOT_FRAMES
    cuts = sorted(rng.randint(0, spare) for _ in range(SHOTS - 1))
    ends = (n * MIN_SHOT_FRAMES + cut for n, cut in enumerate((0, *cuts, spare)))
    for start, stop in pairwise(ends):
        yield draw_shot(rng, start, stop)
