"""Figures that answer to the reader; a still picture where scripts do not run."""

from book.kit.live.info_nce import info_nce_figure as info_nce_figure
