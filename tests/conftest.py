"""Fixtures every test file may use: reference files, small videos, one thread."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference files beside the project; the test skips without it."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference files in ../shared")
    return SHARED


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Write uint8 frames (n, H, W, 3) as a real H.264 MP4."""

    def write(path: Path, frames: np.ndarray, fps: int = 8) -> Path:
        import av

        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "10"}
            for image in frames:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def ramp_video(tmp_path_factory, write_video) -> Path:
    """40 grey frames at 8 fps; frame i has brightness 5 i + 20 everywhere."""
    levels = 5 * np.arange(40) + 20
    frames = np.broadcast_to(levels[:, None, None, None], (40, 48, 64, 3))
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "ramp.mp4", frames.astype(np.uint8))


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    """Where the tests run says nothing about the address of the project."""
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "CI_PROJECT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def free_port() -> int:
    """A port of this machine where processes can meet."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def clips_root(tmp_path_factory) -> Path:
    """A folder with the built-in benchmark of 16, 4 and 4 clips: real files."""
    from glscl.mini.synthetic import make_benchmark

    folder = tmp_path_factory.mktemp("mini")
    make_benchmark(folder, 16, 4, 4, progress=False)
    return folder
