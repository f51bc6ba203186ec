"""Closed forms: the multiply-adds of similarity heads from their sizes.

The unit is the MAC, one multiply-add of a matrix product or a contraction; every count
says so in its name. A FLOP count in the usual sense (two per MAC) is twice as large.
Norms, softmax, activations, biases and elementwise scaling are not MACs.

Three phases are counted separately: once per video (offline), once per caption (query),
and for every pair. Tests compare them all with two tools that count.
Sources: FLOPs column of GLSCL, Table I; the papers of each method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes in the letters of the notation; the defaults are MSR-VTT with ViT-B/32.

    Raises ``ValueError`` for a size below 1, and where C or H does not divide D.
    """

    D: int = 512  # channels
    F: int = 12  # frames of a video
    L: int = 32  # tokens of a caption
    Q: int = 8  # concepts of the LIM
    P: int = 49  # patches of a frame
    C: int = 8  # slices of DiCoSA
    H: int = 8  # heads of a decoder layer
    decoder_layers: int = 3
    feedforward: int = 2048  # hidden width of a decoder layer

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        for name in ("C", "H"):
            if self.D % vars(self)[name]:
                raise ValueError(
                    f"{name} must divide the {self.D} channels, got {vars(self)[name]}."
                )


@dataclass(frozen=True)
class HeadMacs:
    """MACs of a head by phase.

    ``pair`` is paid for every video of the gallery, ``reranked`` on top of it for a
    caption's ``shortlist`` best videos alone. ``exponentials`` are those of the
    softmaxes of one pair; they are no MACs.
    """

    video: int
    query: int
    pair: int
    exponentials: int = 0
    reranked: int = 0
    shortlist: int = 0

    def per_query(self, gallery: int) -> int:
        """MACs to score one caption with ``gallery`` videos, without its query phase."""
        return gallery * self.pair + min(self.shortlist, gallery) * self.reranked

    def items(self, captions: int, videos: int) -> int:
        """MACs of the two phases that are paid per item."""
        return captions * self.query + videos * self.video

    def total(self, captions: int, videos: int) -> int:
        """MACs of the whole head for ``captions`` × ``videos`` scores."""
        return self.items(captions, videos) + captions * self.per_query(videos)


def decoder_macs(M: int, sizes: Sizes) -> int:
    """MACs of the LIM decoding one item of ``M`` tokens or frames.

    Per layer: self-attention 4QD² + 2Q²D, cross-attention 2QD² + 2MD² + 2QMD, and the
    feed-forward pair 2QD · width.
    """
    Q, D = sizes.Q, sizes.D
    attention = (6 * Q + 2 * M) * D**2 + 2 * Q**2 * D + 2 * Q * M * D
    return sizes.decoder_layers * (attention + 2 * Q * D * sizes.feedforward)


def folded_decoder_macs(M: int, sizes: Sizes) -> int:
    """MACs of the LIM decoding one item by exact algebra (``decode_folded``).

    Cross-attention without keys and values, QD² for the values, QD² for the output and
    2QHMD, in every layer; 6QD² + 2Q²D for self-attention and queries in every layer but
    the first, where the queries are the same for all items (``shared_decoder_macs``).
    """
    Q, D, H = sizes.Q, sizes.D, sizes.H
    cross = 2 * Q * D**2 + 2 * Q * H * M * D + 2 * Q * D * sizes.feedforward
    later_layers = sizes.decoder_layers - 1
    return sizes.decoder_layers * cross + later_layers * shared_decoder_macs(sizes)


def shared_decoder_macs(sizes: Sizes) -> int:
    """MACs that the folded decoder spends once for all items it decodes together."""
    Q, D = sizes.Q, sizes.D
    return 6 * Q * D**2 + 2 * Q**2 * D


def eercf_macs(sizes: Sizes, patches: bool, shortlist: int | None = None) -> HeadMacs:
    """EERCF: dense, or (with a ``shortlist``) coarse for all and fine for the best."""
    D, F, P = sizes.D, sizes.F, sizes.P
    fine = 2 * F * D + D + F**2 + (F * P * D if patches else 0)
    exponentials = 2 * F + (F * P if patches else 0)
    if shortlist is None:
        return HeadMacs(0, D**2, D + fine, exponentials)
    return HeadMacs(0, D**2, D, reranked=fine, shortlist=shortlist)


def head_macs(sizes: Sizes) -> dict[str, HeadMacs]:
    """Every head, counted the same way: the products that its equations contain."""
    D, F, L, Q = sizes.D, sizes.F, sizes.L, sizes.Q
    d = D // sizes.C
    mean = HeadMacs(0, 0, D)
    xpool = HeadMacs(2 * F * D**2, D**2, 2 * F * D + 2 * D**2 + D, F)
    return {
        "CLIP4Clip": mean,
        "CLIP-ViP": mean,
        "CenterCLIP": mean,
        "TS2-Net": HeadMacs(0, 0, F * D, F),
        "X-CLIP": HeadMacs(
            0,
            (1 + L) * D**2,
            (1 + L + F + L * F) * D + 2 * L**2 + 2 * F**2 + F * L**2 + L * F**2,
            2 * (L + F + L * F),
        ),
        "X-Pool": xpool,
        "DiCoSA": HeadMacs(0, 0, 2 * F * D + D + sizes.C * (8 * d**2 + 4 * d), F),
        "Prompt Switch": mean,
        "Prompt Switch, transformer": xpool,
        "GLSCL": HeadMacs(
            decoder_macs(F, sizes), decoder_macs(L, sizes), 2 * F * D + D + Q * D, F
        ),
        "WTI": HeadMacs(F * (D**2 + D), L * (D**2 + D), L * F * D),
        "GLCCL": HeadMacs(
            0,
            (1 + L) * D**2,
            2 * F * D * (1 + L) + (1 + L) ** 2 * D + 4 * L**2 + 2 * L**3,
            (1 + L) * F + 2 * L**2 + 4 * L,
        ),
        "EERCF, frames": eercf_macs(sizes, patches=False),
        "EERCF, frames and patches": eercf_macs(sizes, patches=True),
        "EERCF, frames, two-stage": eercf_macs(sizes, False, shortlist=50),
        "EERCF, patches, two-stage": eercf_macs(sizes, True, shortlist=50),
    }


def folded_macs(sizes: Sizes) -> dict[str, HeadMacs]:
    """The heads that exact algebra makes cheaper; the GIM also on its own."""
    D, F, L, Q, C = sizes.D, sizes.F, sizes.L, sizes.Q, sizes.C
    d = D // C
    gim = HeadMacs(F**2 * D, 0, F * D + F**2 + 2 * F, F)
    forms = sum(n * (n + 1) for n in (F, F + 1, F + 2))  # Gram matrices of X-Pool
    tables = sum(n**2 for n in (F, F + 1, F + 2)) * D
    xpool = HeadMacs(4 * F * D**2 + tables, D**2 + 2 * D, 2 * F * D + forms + F + 2, F)
    return {
        "GIM": gim,
        "GLSCL": HeadMacs(
            gim.video + folded_decoder_macs(F, sizes),
            folded_decoder_macs(L, sizes),
            gim.pair + Q * D,
            F,
        ),
        "X-Pool": xpool,
        "Prompt Switch, transformer": xpool,
        "DiCoSA": HeadMacs(
            F * D * 4 * d + F**2 * D,
            4 * d * D,
            F * D + C * (F + F**2 + F + 4 * d * F + 4 * d),
            F,
        ),
        "GLCCL": HeadMacs(
            F**2 * D,
            (1 + L) * D**2,
            2 * F * D * (1 + L)
            + (1 + L) * (F**2 + F)
            + F
            + 2 * L * F
            + L**2 * F
            + 4 * L**2
            + 2 * L**3,
            (1 + L) * F + 2 * L**2 + 4 * L,
        ),
    }


@dataclass(frozen=True)
class Cost:
    """One row of the table. Per item and pair in MACs, totals in giga-MACs (10⁹)."""

    method: str
    video_macs: int
    query_macs: int
    pair_macs: float
    folded_pair_macs: float
    pairs_giga: float
    items_giga: float
    total_giga: float


def cost_table(sizes: Sizes, captions: int = 1000, videos: int = 1000) -> list[Cost]:
    """Every head at one size, as its equations stand and folded.

    Pairs, items and total are counts of the equations for all ``captions`` × ``videos``.
    Raises ``ValueError`` for an empty gallery.
    """
    if captions < 1 or videos < 1:
        raise ValueError(
            f"captions and videos must be at least 1, got {captions} and {videos}."
        )
    folded = folded_macs(sizes)
    return [
        Cost(
            method,
            macs.video,
            macs.query,
            macs.per_query(videos) / videos,
            folded.get(method, macs).per_query(videos) / videos,
            captions * macs.per_query(videos) / 1e9,
            macs.items(captions, videos) / 1e9,
            macs.total(captions, videos) / 1e9,
        )
        for method, macs in head_macs(sizes).items()
    ]


def cost_text(rows: Sequence[Cost]) -> str:
    """The table as plain text, one method a line."""
    names = ("per pair", "folded", "per caption", "per video", "pairs G", "items G")
    lines = [f"{'MACs':27s}" + "".join(f"{name:>13s}" for name in (*names, "total G"))]
    for row in rows:
        counts = (row.pair_macs, row.folded_pair_macs, row.query_macs, row.video_macs)
        giga = (row.pairs_giga, row.items_giga, row.total_giga)
        lines.append(
            f"{row.method:27s}"
            + "".join(f"{count:13,.0f}" for count in counts)
            + "".join(f"{value:13,.2f}" for value in giga)
        )
    return "\n".join(lines)
