"""Drawing shots as pixels, and writing them as H.264 video.

Objects are signed distance fields: negative inside, positive outside, in pixels.
Clamping the distance to half a pixel around the edge gives anti-aliased shapes, for
all frames of a shot at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glscl.mini.scenes import SIDE, Clip, Shot

Array = NDArray[np.float32]

RGB = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (240, 220, 40),
    "green": (40, 165, 60),
    "turquoise": (40, 205, 215),
    "blue": (45, 75, 215),
    "purple": (130, 50, 170),
    "pink": (250, 140, 190),
}
RADIUS = {"small": 9.0, "large": 15.0}  # pixels
TRAVEL = 28.0  # pixels from the first to the last frame of a moving shot
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y
SPIN_RATE = 14.0  # degrees a frame
BLINK_PERIOD = 4  # frames: two visible, two hidden
GROWTH = (0.65, 1.2)  # of the radius, from the first to the last frame
# Grey levels (ground, figure) of the background pattern.
_GREYS = {"light": (222.0, 172.0), "dark": (38.0, 84.0)}

_YY, _XX = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + np.float32(0.5)


def trajectory(
    shot: Shot, times: NDArray[np.int64]
) -> tuple[Array, Array, Array, Array, NDArray[np.bool_]]:
    """Where and how the object is at ``times`` (T,), frames since the shot began.

    Returns x, y and radius in pixels, angle in radians, and whether it is visible,
    each (T,).
    """
    # 0 at the first frame of the shot, 1 at the last.
    progress = times / max(shot.frames - 1, 1)
    shift = TRAVEL * (progress - 0.5)
    step_x, step_y = STEPS.get(shot.motion, (0, 0))
    first, last = {"grow": GROWTH, "shrink": GROWTH[::-1]}.get(shot.motion, (1, 1))
    scale = first + (last - first) * progress
    rate = shot.turn * SPIN_RATE if shot.motion == "spin" else 0.0
    hidden = (shot.motion == "blink") & (times % BLINK_PERIOD >= BLINK_PERIOD // 2)
    return (
        (shot.x + step_x * shift).astype(np.float32),
        (shot.y + step_y * shift).astype(np.float32),
        (RADIUS[shot.size] * scale).astype(np.float32),
        np.deg2rad(shot.tilt + rate * times).astype(np.float32),
        ~hidden,
    )


def _distance(shape: str, x: NDArray, y: NDArray, r: NDArray) -> NDArray:
    """Pixels from (x, y) to the edge of a shape of radius ``r`` around (0, 0)."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74 * r) - 0.26 * r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85 * r
    if shape == "triangle":
        # Apex up (y grows downwards), corners on a circle of 1.15 r, moved to look centred.
        y = y - 0.15 * r
        return np.maximum(y, (3**0.5 * np.abs(x) - y) / 2) - 0.575 * r
    if shape == "cross":
        x, y, arm = np.abs(x), np.abs(y), 0.3 * r
        return np.minimum(np.maximum(x - r, y - arm), np.maximum(x - arm, y - r))
    # A star: fold the plane onto half a point of it, then one edge is left.
    sector = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - sector * np.round(angle / sector))
    distance = np.hypot(x, y)
    u, v = distance * np.cos(folded), distance * np.sin(folded)
    outer, inner = np.float32(1.15), np.float32(0.5)
    valley = (inner * np.cos(sector / 2), inner * np.sin(sector / 2))
    edge = np.hypot(outer - valley[0], valley[1])
    normal = (valley[1] / edge, (outer - valley[0]) / edge)
    return normal[0] * (u - outer * r) + normal[1] * v


def _triangle_wave(position: Array, period: float) -> Array:
    """Distance in pixels to the nearest multiple of ``period``."""
    return np.abs(position - period * np.round(position / period))


def background(shot: Shot) -> Array:
    """Grey levels (SIDE, SIDE) of the background of ``shot``."""
    ground, figure = _GREYS[shot.tone]
    x, y = _XX + shot.phase_x, _YY + shot.phase_y
    if shot.pattern == "stripes":
        # Diagonal bands, 4.5 pixels wide.
        mask = np.clip(_triangle_wave((x + y) / 2**0.5, 9.0) - 2.25 + 0.5, 0, 1)
    elif shot.pattern == "checks":
        product = (_triangle_wave(x, 16.0) - 4.0) * (_triangle_wave(y, 16.0) - 4.0)
        mask = np.clip(0.5 + product / 4.0, 0, 1)
    elif shot.pattern == "dots":
        distance = np.hypot(_triangle_wave(x, 10.0), _triangle_wave(y, 10.0))
        mask = np.clip(0.5 + 2.6 - distance, 0, 1)
    else:
        mask = np.zeros((SIDE, SIDE))
    grey = ground + (figure - ground) * mask + shot.background_shade
    return grey.astype(np.float32)


def render_shot(shot: Shot, times: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """RGB frames (T, SIDE, SIDE, 3) at ``times`` since the shot began, default all."""
    when = np.arange(shot.frames) if times is None else np.asarray(times)
    x, y, radius, angle, visible = (v[:, None, None] for v in trajectory(shot, when))
    dx, dy, cos, sin = _XX - x, _YY - y, np.cos(angle), np.sin(angle)
    distance = _distance(shot.shape, cos * dx + sin * dy, cos * dy - sin * dx, radius)
    # How much of every pixel the object covers.
    alpha = (np.clip(0.5 - distance, 0, 1) * visible)[..., None]
    colour = np.add(RGB[shot.colour], shot.object_shade, dtype=np.float32)
    ground = background(shot)[None, :, :, None]
    frames = ground + alpha * (colour - ground)
    return (np.clip(frames, 0, 255) + 0.5).astype(np.uint8)


def render_clip(clip: Clip) -> NDArray[np.uint8]:
    """RGB frames (36, 64, 64, 3) of ``clip``, as drawn, before any compression."""
    return np.concatenate([render_shot(shot) for shot in clip.shots])
