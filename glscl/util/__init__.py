"""Helpers that any part may use: shapes, numerics, files, processes."""
