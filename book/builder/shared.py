"""What the notebooks of one run share: the device and the data on disk."""

import os
from collections.abc import Iterable

from book.builder.parameters import Values
from book.builder.project import BuildError, Project

SIZES = {"train_clips": "train", "val_clips": "val", "test_clips": "test"}


def device(values: Values) -> str:
    """The name of the device that a notebook with these values computes on.

    One without the parameter ``device`` needs no other than the CPU.
    """
    # Imported late: most calls of the build run no notebook.
    import torch

    if values.get("device", "cpu") != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({os.cpu_count()} cores)"


def ensure_data(project: Project, all_values: Iterable[Values]) -> None:
    """Generate the built-in benchmark once, before several notebooks need it.

    A notebook needs it if it has a ``data_root`` and no other ``dataset``. Each split
    has the largest size that a notebook names, else its default size.
    """
    folders: dict[str, dict[str, int]] = {}
    for values in all_values:
        if "data_root" not in values or values.get("dataset", "mini") != "mini":
            continue
        options = folders.setdefault(values["data_root"], {})
        options["seed"] = values.get("seed", 0)
        for name, split in SIZES.items():
            if name in values:
                options[split] = max(options.get(split, 0), values[name])
    if not folders:
        return
    from glscl.mini.synthetic import BenchmarkError, make_benchmark

    for folder, options in folders.items():
        print(f"    data  {folder}", flush=True)
        try:
            make_benchmark(project.root / folder, **options, progress=False)
        except BenchmarkError as error:
            raise BuildError(str(error)) from None
