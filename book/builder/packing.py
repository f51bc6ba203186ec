"""Tensors as text that a script of a page can hold: base64 of gzip.

16 bits a number. The feed-forward matrices of the query decoder, which are most of the
weights, have 8 bits a number, and a 16-bit scale for every row of as many numbers as a
feature has. With 8 bits in its attention, too, scores would differ by more than 0.001.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FEED_FORWARD = ".linear"  # in the names of these weights
STEPS = 127  # from 0 to the largest number of a row


def pack(named: Mapping[str, Tensor], row: int) -> dict[str, Any]:
    """Tensors (1 or 2 axes) as three blobs, and the names, shapes and bits of all.

    ``high`` and ``low``: the two bytes of the 16-bit numbers, apart, which compresses
    better; ``bytes``: the 8-bit numbers, of which each ``row`` has a 16-bit scale.
    """
    halves, steps, parts = [], [], []
    for name, x in named.items():
        shape = (1, *x.shape)[-2:]
        values = x.detach().numpy().astype(np.float32)
        bits = 8 if FEED_FORWARD in name and x.ndim == 2 else 16
        parts.append({"name": name, "shape": shape, "bits": bits})
        if bits == 8:
            rows = values.reshape(-1, row)
            largest = np.abs(rows).max(axis=1, keepdims=True)
            values = (np.maximum(largest, 1e-6) / STEPS).astype(np.float16)
            scaled = rows / values.astype(np.float32)
            steps.append(np.clip(np.rint(scaled), -STEPS, STEPS))
        halves.append(values.astype("<f2").ravel())
    pairs = np.concatenate(halves).view(np.uint8).reshape(-1, 2)
    quantised = np.concatenate([s.astype(np.int8).ravel() for s in steps])
    return {
        "parts": parts,
        "row": row,
        "high": blob(pairs[:, 1].tobytes()),
        "low": blob(pairs[:, 0].tobytes()),
        "bytes": blob(quantised.tobytes()),
    }


def blob(data: bytes) -> str:
    """Bytes, compressed, as text."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
