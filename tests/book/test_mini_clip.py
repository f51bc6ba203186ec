"""The mini CLIP: its vocabulary, what it is trained on, and what it can read."""

import gzip
import hashlib
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from book.experiments.mini_clip import (
    FACTS,
    Still,
    agreement,
    build_vocabulary,
    contrastive_loss,
    describe,
    draw_batch,
    draw_still,
    evaluate,
    held_out,
    learning_rate,
    main,
    new_model,
    pixels_of,
    pretrain,
    save_checkpoint,
    still_of,
    swapped,
)
from book.experiments.still_captions import vocabulary
from glscl.backbone import ASSETS, load_backbone, mini_tokenizer, open_clip
from glscl.mini.grammar import captions_of
from glscl.mini.render import RADIUS, render_shot
from glscl.mini.scenes import draw_clip, draw_shot


def test_shipped_vocabulary_is_the_one_the_words_need():
    shipped = gzip.decompress((ASSETS / "mini_bpe.txt.gz").read_bytes())
    assert shipped == gzip.decompress(build_vocabulary())
    assert build_vocabulary() == build_vocabulary()


def test_every_word_tokenises_as_in_clip():
    full, mini = open_clip().SimpleTokenizer(), mini_tokenizer()
    for word in vocabulary():
        pieces = [mini.decoder[token] for token in mini.encode(word)]
        assert pieces == [full.decoder[token] for token in full.encode(word)]


def test_every_caption_word_is_in_the_vocabulary_and_captions_fit():
    words, longest = set(), 0
    rng = random.Random(0)
    texts = [c.text for i in range(300) for c in captions_of(draw_clip("train", i))]
    texts += [describe(rng, draw_still(rng))[0] for _ in range(500)]
    for text in texts:
        words |= set(text.replace(",", " ,").split())
        longest = max(longest, len(mini_tokenizer().encode(text)))
    assert words <= set(vocabulary())
    assert longest + 2 <= 32


def test_words_outside_the_domain_still_tokenise():
    text = "a dog chases 7 naïve 漢字"
    assert mini_tokenizer().decode(mini_tokenizer().encode(text)).strip() == text


@pytest.mark.parametrize(
    ("x", "y", "cell"), [(18, 18, (0, 0)), (32, 20, (0, 1)), (45, 32, (1, 2))]
)
def test_position_is_the_cell_of_the_centre(x, y, cell):
    shot = replace(draw_shot(random.Random(0), 0, 9, motion="still"), x=x, y=y)
    assert still_of(shot, 0).cell == cell


def test_size_is_the_apparent_one():
    shot = draw_shot(random.Random(0), 0, 12, motion="grow", size="large")
    assert [still_of(shot, time).size for time in (0, 11)] == ["small", "large"]
    small = replace(shot, size="small")
    assert {still_of(small, time).size for time in range(12)} == {"small"}
    assert RADIUS["small"] < RADIUS["large"]


def test_hidden_object_is_not_described():
    shot = draw_shot(random.Random(0), 0, 8, motion="blink", pattern="plain")
    still = still_of(shot, 2)
    assert still.cell is None
    assert len(np.unique(render_shot(shot, [2]))) == 1
    text, stated = describe(random.Random(0), still)
    assert text.startswith("nothing ")
    assert stated["colour"] == "none"
    assert "size" not in stated


def test_agreement_equals_a_plain_comparison():
    rng = random.Random(2)
    stills = draw_batch(rng, 60, clusters=3)
    stated = [describe(rng, still, 0.6, 0.8)[1] for still in stills[:37]]
    facts = [still.facts() for still in stills]
    plain = [
        [all(seen[name] == value for name, value in said.items()) for seen in facts]
        for said in stated
    ]
    found = agreement(stated, facts)
    assert np.array_equal(found, plain)
    assert found.diagonal().all()
    assert found.sum() > len(stated)


def test_clusters_share_colour_pattern_and_tone():
    stills = draw_batch(random.Random(0), 10, clusters=3)
    groups = [stills[:4], stills[4:7], stills[7:]]
    for group in groups:
        shots = {(s.shot.colour, s.shot.pattern, s.shot.tone) for s in group}
        assert len(shots) == 1
    assert len(draw_batch(random.Random(0), 10, clusters=0)) == 10


def test_contrastive_loss_equals_loops_and_leaves_out_true_pairs():
    torch.manual_seed(0)
    captions, images = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    true = torch.eye(5, dtype=torch.bool)
    true[0, 3] = true[4, 2] = True
    scale = torch.tensor(4.0, dtype=torch.float64)

    def cosine(i, j):
        return float(F.cosine_similarity(captions[i], images[j], dim=0))

    total = 0.0
    for i in range(5):
        own = math.exp(4 * cosine(i, i))
        columns = [j for j in range(5) if j == i or not true[i, j]]
        rows = [j for j in range(5) if j == i or not true[j, i]]
        total -= math.log(own / sum(math.exp(4 * cosine(i, j)) for j in columns))
        total -= math.log(own / sum(math.exp(4 * cosine(j, i)) for j in rows))
    loss = contrastive_loss(captions, images, scale, true)
    torch.testing.assert_close(loss.item(), total / 10)


def test_learning_rate_warms_up_then_falls_to_zero():
    rates = [learning_rate(step, 50, peak=2.0, warmup=10) for step in range(51)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0)


def test_new_model_knows_where_its_patches_are():
    position = new_model(0).clip.visual.positional_embedding
    assert position.std().item() == pytest.approx(0.5, abs=0.03)


def test_training_learns_and_repeats_exactly():
    records = []
    _, history = pretrain(12, batch=32, random_steps=9, log=records.append)
    assert records == history
    assert [record["step"] for record in history] == list(range(12))
    assert not any(record["clustered"] for record in history[:9])
    losses = [record["loss"] for record in history]
    assert np.mean(losses[6:9]) < np.mean(losses[:3]) - 0.05
    _, again = pretrain(2, batch=32, random_steps=9)
    _, other = pretrain(2, batch=32, random_steps=9, seed=1)
    assert again[0] == history[0]
    assert other[0]["loss"] != history[0]["loss"]


def test_held_out_frames_show_what_is_said_of_them():
    stills, frames = held_out(6)
    assert all(still.cell is not None for still in stills)
    drawn = pixels_of(stills)
    # The only difference is compression.
    assert np.abs(frames.astype(int) - drawn).mean() <= 4


def test_swapped_captions_state_one_wrong_fact():
    rng = random.Random(1)
    stills: list[Still] = [s for s in draw_batch(rng, 40, 0) if s.cell is not None]
    for still in stills:
        for name in ("colour", "shape", "size", "position", "pattern", "tone"):
            wrong = swapped(rng, still, name).facts()
            different = {n for n in FACTS if wrong[n] != still.facts()[n]}
            if name == "position":
                assert different <= {"row", "column"}
                assert different
            else:
                assert different == {name}


def test_checkpoint_loads_again_with_its_provenance(tmp_path):
    model = new_model(0).eval()
    path = tmp_path / "tiny.safetensors"
    digest = save_checkpoint(model, path, {"steps": 0})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "sha256": digest,
        "steps": 0,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "tiny.json",
        "tiny.safetensors",
    ]
    again = load_backbone("mini", path)
    pixels = torch.randn(3, 3, 64, 64)
    cosine = F.cosine_similarity(model.encode_image(pixels), again.encode_image(pixels))
    assert cosine.min() >= 0.99999


def test_bad_arguments_are_refused_before_training(tmp_path, capsys):
    for arguments, message in (
        (["--out", str(tmp_path / "mini.pt")], "expected a .safetensors file"),
        (["--out", str(tmp_path / "no" / "m.safetensors")], "in a folder"),
        (["--out", str(tmp_path / "m.safetensors"), "--steps", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_shipped_weights_are_those_of_the_provenance():
    weights = ASSETS / "mini_clip.safetensors"
    provenance = json.loads(weights.with_suffix(".json").read_text())
    assert weights.stat().st_size <= 4e6
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert digest == provenance["sha256"]
    for part in ("command", "steps", "seed", "evaluation", "versions"):
        assert part in provenance


def test_mini_clip_reads_held_out_frames():
    results = evaluate(load_backbone("mini"))
    provenance = json.loads((ASSETS / "mini_clip.json").read_text())
    assert results == pytest.approx(provenance["evaluation"], abs=1.0)
    assert results["R1"] >= 75
    assert results["swap_shape"] >= 80
    assert results["swap_position"] >= 90
    assert results["swap_size"] >= 95
    assert results["swap_colour"] >= 99
