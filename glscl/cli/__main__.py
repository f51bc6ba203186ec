"""``python -m glscl.cli``, as ``torchrun`` starts it."""

from glscl.cli import app

app()
