"""The methods of the book by name, and any saved model whatever its method."""

from pathlib import Path

from glscl.eercf import EERCF
from glscl.glccl import GLCCL
from glscl.model import GLSCL
from glscl.retriever import Retriever
from glscl.weights import read_directory

METHODS: dict[str, type[Retriever]] = {
    kind.method: kind for kind in (GLSCL, EERCF, GLCCL)
}


def load_model(path: str | Path) -> Retriever:
    """The model that ``save`` wrote to ``path``, in evaluation mode, on the CPU.

    Raises ``FileNotFoundError`` for missing files, ``ValueError`` for files that are not
    a model of a known method.
    """
    method = read_directory(Path(path)).method
    if method not in METHODS:
        raise ValueError(
            f"{path} holds a model of an unknown method {method!r}: expected one of "
            f"{list(METHODS)}."
        )
    return METHODS[method].load(path)
