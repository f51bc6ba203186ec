"""The builder: run the notebooks, check all sources, render and check the pages."""
