"""A process of a test that joins others over gloo, as under ``torchrun``."""

import os
from pathlib import Path

import torch

from glscl.util import parallel


def join(rank, folder, size=2):
    """Join ``size`` processes at the port that the file ``port`` in ``folder`` names."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=(Path(folder) / "port").read_text(),
        RANK=str(rank),
        WORLD_SIZE=str(size),
    )
    torch.set_num_threads(1)
    parallel.start(torch.device("cpu"))
