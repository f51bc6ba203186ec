"""``glscl flops``: what the similarity heads cost."""

from __future__ import annotations

from typing import Annotated

import typer

from glscl.cli.common import sentence_errors


@sentence_errors
def flops(
    dim: Annotated[int, typer.Option(help="Channels D.")] = 512,
    frames: Annotated[int, typer.Option(help="Frames F of a video.")] = 12,
    tokens: Annotated[int, typer.Option(help="Tokens L of a caption.")] = 32,
    queries: Annotated[int, typer.Option(help="Concepts Q.")] = 8,
    patches: Annotated[int, typer.Option(help="Patches P of a frame.")] = 49,
    captions: Annotated[int, typer.Option(help="Captions to score.")] = 1000,
    videos: Annotated[int, typer.Option(help="Videos of the gallery.")] = 1000,
) -> None:
    """Print what every similarity head costs, in multiply-adds (MACs)."""
    from glscl.costs.formulas import Sizes, cost_table, cost_text

    sizes = Sizes(D=dim, F=frames, L=tokens, Q=queries, P=patches)
    typer.echo(cost_text(cost_table(sizes, captions, videos)))
