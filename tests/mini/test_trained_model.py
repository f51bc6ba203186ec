"""The trained mini model of the package, in the README and in ``glscl demo``."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import glscl
from glscl.cli import app
from glscl.cli import demo as command
from glscl.data.loader import VideoDataset
from glscl.evaluate import caption_scores, encode_gallery, frame_spec
from glscl.mini.grammar import captions_of
from glscl.mini.scenes import draw_clip
from glscl.mini.synthetic import load_benchmark

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
runner = CliRunner()


@pytest.fixture(scope="module")
def model():
    return glscl.GLSCL.from_pretrained("mini")


def test_the_code_of_the_readme_finds_the_video_that_shows_the_sentence(
    tmp_path, monkeypatch, capsys, model
):
    monkeypatch.chdir(tmp_path)
    (make,) = re.findall(r"`glscl (data make[^`]*)`, it is", README)
    assert runner.invoke(app, make.split()).exit_code == 0
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)  # what a reader pastes
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    benchmark = load_benchmark("clips")
    (true,) = [
        clip.id
        for clip in benchmark.clips("test")
        if names["sentence"] in [caption.text for caption in captions_of(clip)]
    ]
    assert len(shown) == 3
    assert Path(shown[0][1]).stem == true
    # The scores are those of the other way to compute them.
    split = benchmark.split("test")
    spec = frame_spec(model.backbone, model.config)
    gallery = encode_gallery(model, VideoDataset(split, spec))
    scores = caption_scores(model, [names["sentence"]], gallery)[0]
    best = scores.argsort(descending=True)[:3].tolist()
    assert [Path(path).stem for _, path in shown] == [split.videos[b].id for b in best]
    assert [float(score) for score, _ in shown] == pytest.approx(
        scores[best].tolist(), abs=6e-4
    )


def test_it_is_small_and_says_where_it_comes_from(model):
    folder = Path(glscl.backbone.ASSETS) / "glscl"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8e6
    record = model.record
    assert re.fullmatch(r"[0-9a-f]{64}", record["data_sha256"])
    assert record["command"].startswith("python -m book.experiments mini_model")
    first = record["test"][0]
    assert first["low"] < first["R1"] < first["high"]
    assert (first["queries"], first["gallery"]) == (1500, 300)


def test_its_image_tower_is_that_of_the_mini_clip(model):
    clip = glscl.backbone.load_backbone("mini").state_dict()
    mine = model.backbone.state_dict()
    tower = [name for name in clip if name.startswith("clip.visual.")]
    assert all(torch.equal(clip[name], mine[name]) for name in tower)
    assert any(not torch.equal(clip[name], mine[name]) for name in clip)


def test_the_demo_prints_a_table_and_names_a_page(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert "never seen" not in result.output
    lines = result.output.splitlines()
    assert [line[:3] for line in lines[2:-1]] == [" 1.", " 2.", " 3.", " 4.", " 5."]
    assert lines[2].endswith("red triangle spin; pink star down; green triangle shrink")
    assert all(re.search(f"[{command.BARS}]{{12}}", line) for line in lines[2:-1])
    page = Path(lines[-1].removeprefix("written to "))
    text = page.read_text()
    assert text.count('<figure class="glscl-card">') == command.SHOWN
    assert opened == []


def test_the_demo_names_the_words_that_the_model_does_not_know():
    strange = command.unknown_words("A dog, then a RED plus; a cat moves left of a dog")
    assert strange == ["dog", "cat", "of"]
    assert command.unknown_words(command.SENTENCE) == []


def test_clips_of_the_demo_fit_the_sentence():
    clips = command.chosen_clips("a HUGE teal star moves right")
    assert len({clip.id for clip in clips}) == command.CLIPS

    def fits(clip):
        objects = [(shot.colour, shot.shape) for shot in clip.shots]
        return ("turquoise", "star") in objects

    drawn = [draw_clip("test", number) for number in range(command.DRAWN)]
    usual = sum(map(fits, drawn)) / len(drawn)
    assert sum(map(fits, clips)) / len(clips) > 3 * usual
    whole = [c for c in drawn if c.id == "test-00011"]  # every word is true of it
    assert whole[0] in clips
