"""Whole runs of ``fit`` against the records of the released training program.

Anybody can do the same: nothing here but the public functions of the package.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from glscl import GLSCL, backbone
from glscl.config import get_preset
from glscl.data.pairs import epoch_order
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.train import RunOptions, fit
from glscl.weights import authors_shared_name, own_names

pytestmark = pytest.mark.shared
PARTS = ("total", "info_nce", "icl", "idl")
EOS = 599


class StoredVideos:
    """The 16 videos and 48 captions that the released program was trained on."""

    def __init__(self, inputs):
        self.pixels = torch.from_numpy(inputs["frames_int8"]) / 64
        self.mask = torch.from_numpy(inputs["frame_mask"])
        self.split = Split(
            "train",
            tuple(VideoItem(f"{i}", Path(f"{i}")) for i in range(len(self.mask))),
            tuple(
                CaptionItem("", video, token_ids=tuple(ids[: ids.index(EOS) + 1]))
                for video, ids in zip(
                    inputs["video_of_caption"].tolist(),
                    inputs["token_ids"].tolist(),
                    strict=True,
                )
            ),
        )

    def load(self, video, seed):
        return self.pixels[video].to(torch.get_default_dtype()), self.mask[video]


class Trajectory:
    """30 steps of the MSR-VTT recipe by ``fit``, and the stored record of the same."""

    def __init__(self, folder, record, device="cpu", **changes):
        inputs = dict(np.load(folder / "trajectory/trajectory_inputs.npz"))
        self.record = dict(np.load(folder / f"trajectory/trajectory_{record}.npz"))
        model = GLSCL.from_authors(
            folder / "glscl_state_fp16.safetensors",
            preset="msrvtt",
            dropout=0.0,
            max_words=12,
            max_frames=5,
        ).to(torch.get_default_dtype())
        preset = get_preset("msrvtt", "released").changed(
            {"batch_size": 8, "augment": None, "gradient_divisor": 1, **changes}
        )
        start = {
            name: x.detach().double().clone() for name, x in model.state_dict().items()
        }
        videos = StoredVideos(inputs)
        for epoch, order in enumerate(inputs["order_5_epochs"].tolist()):
            assert epoch_order(videos.split, preset.train, epoch) == order
        self.steps = fit(
            model,
            videos,
            preset.train,
            options=RunOptions(device=device, progress=False),
        ).steps
        end, names = model.state_dict(), own_names(model)
        self.moved = {
            authors_shared_name(name): end[name].double().cpu() - start[name]
            for name in names
        }

    def error(self, name):
        """The largest difference of one number a step."""
        found = [step[name] for step in self.steps]
        return np.abs(found - self.record[f"step_{name}"]).max()

    def moved_tensors(self):
        """Names of the tensors that moved here, and of those that did there."""
        here = {name for name, moved in self.moved.items() if moved.any()}
        names, largest = self.record["names"], self.record["moved_max"]
        return here, {str(n) for n, m in zip(names, largest, strict=True) if m}

    def movements(self, prefix):
        """The stored entries of the movement of all weights, here and there."""
        here, there = [], []
        samples = np.split(self.record["sample"], self.record["sample_offset"][1:-1])
        for name, sample in zip(self.record["names"], samples, strict=True):
            if name.startswith(prefix) and len(sample):
                moved = self.moved[str(name)].flatten().numpy()
                rows = np.linspace(0, len(moved) - 1, len(sample)).astype(int)
                here.append(moved[rows])
                there.append(sample)
        return np.concatenate(here), np.concatenate(there)


def test_float64_run_equals_the_released_program(shared):
    torch.set_default_dtype(torch.float64)
    try:
        run = Trajectory(shared / "golden", "msrvtt_share", clip_arithmetic="float32")
    finally:
        torch.set_default_dtype(torch.float32)
    for name in (*PARTS, "kappa"):
        assert run.error(name) <= 1e-12, name
    here, there = run.movements("")
    np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-14)


ON_CUDA = pytest.param(
    "float16 on CUDA",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
)


@pytest.mark.parametrize("computes", ["float32", "float16", ON_CUDA])
def test_released_arithmetic_moves_clip_as_the_released_program_does(
    shared, computes, monkeypatch
):
    """As on a CPU, and as on CUDA, where CLIP itself computes in float16."""
    if computes == "float16":
        monkeypatch.setattr(backbone, "_COMPUTE_HALF", ("cpu",))
    device = "cuda" if "CUDA" in computes else "cpu"
    run = Trajectory(shared / "golden", "msrvtt_fp16clip", device)
    assert run.error("total") <= 5e-3
    tensors, expected_tensors = run.moved_tensors()
    assert tensors == expected_tensors
    here, there = run.movements("clip.")
    cosine = here @ there / np.linalg.norm(here) / np.linalg.norm(there)
    print(f"cosine {cosine:.4f}, moved {np.mean(here != 0):.4f}")
    # The record is of a CPU; a GPU adds in another order.
    assert cosine >= (0.98 if device == "cuda" else 0.99)
    assert np.mean(here != 0) == pytest.approx(np.mean(there != 0), abs=0.01)
