"""Figures that answer to the reader; a still picture where scripts do not run."""

from book.kit.live.circle import circle_figure as circle_figure
from book.kit.live.gim import gim_figure as gim_figure
from book.kit.live.info_nce import info_nce_figure as info_nce_figure
