import errno
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glscl.data import loader
from glscl.data.loader import (
    FrameCache,
    FrameFeatures,
    FrameSpec,
    VideoDataset,
    decode,
    encode_frames,
    stored_features,
    video_loader,
)
from glscl.data.split import CaptionItem, Split, VideoItem
from glscl.data.video import VideoError
from glscl.util.files import atomic_path, write_text

SPEC = FrameSpec(6, 8.0, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Mean(torch.nn.Module):
    """An encoder with one weight: a frame's feature is its mean colour."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.calls = 0

    def encode_image(self, pixels):
        self.calls += 1
        return self.weight * pixels.mean(dim=(2, 3))


def one_feature_set(encoder, dataset, folder):
    """What is stored of all videos, in memory."""
    parts = stored_features(encoder, dataset, folder)
    return FrameFeatures(*map(torch.cat, zip(*parts, strict=True)))


@pytest.fixture
def split(tmp_path, write_video):
    rng = np.random.default_rng(0)
    videos = []
    for i, count in enumerate((40, 3, 12)):
        frames = np.full((count, 48, 64, 3), 60 * i + 40, dtype=np.uint8)
        frames[:, :8] = rng.integers(0, 255, 3)
        path = write_video(tmp_path / f"clip{i}.mp4", frames)
        videos.append(VideoItem(f"clip{i}", path))
    captions = tuple(CaptionItem(f"caption {i}", i) for i in range(3))
    return Split("tiny", tuple(videos), captions)


def test_a_split_refuses_what_does_not_fit():
    video = VideoItem("a", "a.mp4")
    with pytest.raises(ValueError, match="caption 0 names video 1"):
        Split("s", (video,), (CaptionItem("x", 1),))
    with pytest.raises(ValueError, match="caption 0 is empty"):
        Split("s", (video,), (CaptionItem(" ", 0),))
    with pytest.raises(ValueError, match="'a' has no caption"):
        Split("s", (video,), ())
    with pytest.raises(ValueError, match="'a' is there twice"):
        Split("s", (video, video), (CaptionItem("x", 0), CaptionItem("x", 1)))


def test_batches_pad_short_videos_and_mask_them(split):
    dataset = VideoDataset(split, SPEC)
    (batch,) = video_loader(dataset, batch_size=3)
    assert batch.pixels.shape == (3, 6, 3, 32, 32)
    assert batch.frame_mask.sum(dim=1).tolist() == [6, 3, 6]
    assert batch.pixels[~batch.frame_mask].eq(0).all()
    for index, pixels in enumerate(batch.pixels):
        assert torch.equal(pixels, dataset[index].pixels)


def test_worker_processes_give_the_same_batches(split):
    dataset = VideoDataset(split, SPEC)
    for plain, parallel in zip(
        video_loader(dataset, 2), video_loader(dataset, 2, workers=2), strict=True
    ):
        torch.testing.assert_close(plain, parallel, rtol=0, atol=0)


def test_the_frame_cache_gives_the_decoded_frames_without_decoding(
    split, tmp_path, monkeypatch
):
    cache, item = FrameCache(tmp_path / "cache"), split.videos[0]
    first = cache.get(item, SPEC)
    np.testing.assert_array_equal(first, decode(item, SPEC))
    monkeypatch.setattr(loader, "decode", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(cache.get(item, SPEC), first)


def test_a_changed_video_or_rule_is_decoded_again(split, tmp_path):
    cache, (item, other, _) = FrameCache(tmp_path / "cache"), split.videos
    first = cache.get(item, SPEC)
    fewer = cache.get(item, FrameSpec(2, 8.0, 32, SPEC.mean, SPEC.std))
    assert len(fewer) == 2
    item.path.write_bytes(other.path.read_bytes())
    assert len(cache.get(item, SPEC)) == 3
    assert len(first) == 6


def test_frames_and_features_of_another_clock_are_not_reused(
    split, tmp_path, monkeypatch
):
    cache, item = FrameCache(tmp_path / "frames"), split.videos[0]
    encoder, dataset = Mean(), VideoDataset(split, SPEC)

    def fill():
        cache.get(item, SPEC)
        one_feature_set(encoder, dataset, tmp_path / "features")
        return {path for path in tmp_path.rglob("*") if path.is_file()}

    before = fill()
    assert fill() == before
    monkeypatch.setattr(loader, "CLOCK", "index over mean rate")
    assert len(fill() - before) == 2


def test_a_damaged_cache_file_is_made_again(split, tmp_path):
    cache, item = FrameCache(tmp_path / "cache"), split.videos[0]
    first = cache.get(item, SPEC)
    (file,) = (tmp_path / "cache").rglob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    np.testing.assert_array_equal(cache.get(item, SPEC), first)
    assert len(np.load(file)) == 6


def test_a_full_disk_is_one_sentence_and_leaves_nothing(split, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"The disk is full: .*\.npy was not written"):
        FrameCache(tmp_path / "cache").get(split.videos[0], SPEC)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]


def test_two_processes_fill_one_cache(split, tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from glscl.data.loader import FrameCache, FrameSpec
        from glscl.data.split import VideoItem
        folder, *paths = map(Path, sys.argv[1:])
        spec = FrameSpec(6, 8.0, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        for path in paths:
            FrameCache(folder).get(VideoItem(path.stem, path), spec)
        """
    )
    paths = [str(video.path) for video in split.videos]
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), *paths]
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(files) == 3
    assert sorted(len(np.load(file)) for file in files) == [3, 6, 6]


def test_features_are_those_of_each_real_frame(split):
    features = encode_frames(Mean().encode_image, VideoDataset(split, SPEC), 2)
    assert features.frames.shape == (3, 6, 3)
    assert features.frames[~features.frame_mask].eq(0).all()
    pixels, mask = VideoDataset(split, SPEC)[1]
    expected = pixels[mask].mean(dim=(2, 3))
    torch.testing.assert_close(features.frames[1, mask], expected)


def test_cached_features_belong_to_the_weights(split, tmp_path):
    dataset, encoder = VideoDataset(split, SPEC), Mean()
    first = one_feature_set(encoder, dataset, tmp_path / "features")
    calls = encoder.calls
    again = one_feature_set(encoder, dataset, tmp_path / "features")
    assert encoder.calls == calls
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    doubled = one_feature_set(Mean(2.0), dataset, tmp_path / "features")
    torch.testing.assert_close(doubled.frames, 2 * first.frames)


def test_random_numbers_are_the_same_with_and_without_a_cache(split, tmp_path):
    draws = []
    for _ in ("made", "read back"):
        torch.manual_seed(0)
        one_feature_set(Mean(), VideoDataset(split, SPEC), tmp_path)
        draws.append(torch.rand(3))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


def test_a_damaged_feature_file_is_made_again(split, tmp_path):
    dataset, encoder = VideoDataset(split, SPEC), Mean()
    first = one_feature_set(encoder, dataset, tmp_path / "features")
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    again = one_feature_set(encoder, dataset, tmp_path / "features")
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_a_broken_video_is_never_replaced_by_zeros(split, tmp_path):
    split.videos[1].path.write_bytes(b"broken" * 50)
    with pytest.raises(VideoError, match=r"clip1\.mp4"):
        encode_frames(Mean().encode_image, VideoDataset(split, SPEC))


def test_augmented_features_are_not_cached(split, tmp_path):
    dataset = VideoDataset(split, SPEC, augment=lambda frames, seed: frames[:, ::-1])
    with pytest.raises(ValueError, match="must not be cached"):
        one_feature_set(Mean(), dataset, tmp_path)


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 200 kB; the test skips where the system does not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("no disk of its own can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("way", ["numpy", "safetensors", "torch", "text"])
def test_whatever_writes_a_full_disk_is_one_sentence(tiny_disk, way):
    write_text(tiny_disk / "kept", "kept")
    values = torch.zeros(100_000)
    writers = {
        "numpy": lambda path: np.save(path.open("wb"), values.numpy()),
        "safetensors": lambda path: save_file({"values": values}, path),
        "torch": lambda path: torch.save(values, path),
        "text": lambda path: path.write_text("x" * 400_000),
    }
    with (
        pytest.raises(OSError, match=r"The disk is full: .*kept was not written"),
        atomic_path(tiny_disk / "kept") as temporary,
    ):
        writers[way](temporary)
    assert (tiny_disk / "kept").read_text() == "kept"
    assert len(os.listdir(tiny_disk)) == 1


def test_caches_on_a_full_disk_say_so(tiny_disk, split):
    dataset = VideoDataset(split, FrameSpec(6, 8.0, 112, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(OSError, match=r"The disk is full: .*\.npy was not written"):
        FrameCache(tiny_disk).get(split.videos[0], dataset.spec)

    class Wide(Mean):
        def encode_image(self, pixels):
            return super().encode_image(pixels).repeat(1, 10_000)

    with pytest.raises(
        OSError, match=r"The disk is full: .*safetensors was not written"
    ):
        one_feature_set(Wide(), dataset, tiny_disk)


def test_a_limited_cache_keeps_a_share_and_says_the_size_first(split, tmp_path, capsys):
    big = Split("big", split.videos, split.captions)
    assert FrameCache.limited(tmp_path, big, SPEC, 20.0).share == 1.0
    assert capsys.readouterr().err == ""
    spec = FrameSpec(100, 8.0, 2000, SPEC.mean, SPEC.std)  # 3 videos of 1.2 GB
    assert FrameCache.limited(tmp_path, big, spec, 1.8).share == pytest.approx(0.5)
    said = capsys.readouterr().err
    assert "The frames of big take 3.6 GB; 1.8 GB of them are kept" in said
    video = split.videos[0]
    none = FrameCache.limited(tmp_path / "none", big, SPEC, 0.0)
    np.testing.assert_array_equal(none.get(video, SPEC), decode(video, SPEC))
    assert not (tmp_path / "none").exists()
    items = [VideoItem(str(i), video.path, end=1 + i / 10) for i in range(20)]
    half = FrameCache(tmp_path / "half", 0.5)
    for item in items:
        half.get(item, SPEC)
    kept = len(list((tmp_path / "half").rglob("*.npy")))
    assert 0 < kept < 20
