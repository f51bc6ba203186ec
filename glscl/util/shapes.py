"""One check for tensor shapes, with an error that names the axis."""

from typing import Any


def check_shape(
    x: Any, spec: str, name: str = "tensor", **sizes: int
) -> dict[str, int]:
    """Check that ``x`` has the axes of ``spec`` and return the size of each.

    ``spec`` holds one letter or word per axis, as in the notation: ``"B F D"``. A
    letter that occurs twice must have the same size both times; ``sizes`` fixes axes
    that are known already. A number in ``spec`` is a size to match.

    Raises ``ValueError`` that names the tensor, the axis, and both sizes.

    >>> check_shape(torch.zeros(2, 12, 512), "B F D", "frames", D=512)
    {'B': 2, 'F': 12, 'D': 512}
    """
    axes = spec.split()
    shape = tuple(x.shape)
    if len(shape) != len(axes):
        raise ValueError(
            f"{name} must have the {len(axes)} axes ({', '.join(axes)}), "
            f"got {len(shape)}: shape {shape}."
        )
    found: dict[str, int] = {}
    for position, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        expected = int(axis) if axis.isdigit() else found.get(axis, sizes.get(axis))
        if expected is not None and size != expected:
            raise ValueError(
                f"{name}: axis {position} ({axis}) must have size {expected}, "
                f"got {size}: shape {shape} for ({', '.join(axes)})."
            )
        found[axis] = size
    return found
