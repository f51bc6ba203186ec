"""What notebooks show: glued values, tables, figures and clips, as a reader gets them."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from book.experiments.mini_clip import decode_mp4
from book.kit import diagrams, plots, report
from book.kit.attention_player import QueryAttention
from glscl import metrics


@pytest.fixture
def shown(monkeypatch):
    """Everything that is displayed, as (mime bundle, metadata)."""
    import IPython.display

    calls = []

    def display(bundle, raw=False, metadata=None):
        assert raw
        calls.append((bundle, metadata or {}))

    monkeypatch.setattr(IPython.display, "display", display)
    return calls


def soup(shown):
    return BeautifulSoup(shown[-1][0]["text/html"], "html.parser")


def rows(shown):
    """The texts of a shown table, header first."""
    return [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in soup(shown).find_all("tr")
    ]


# ---- glue --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.25, "1.25"),
        (3, "3"),
        ("word", "'word'"),
        (True, "True"),
        (torch.tensor(2.5), "2.5"),
        (torch.tensor([4]), "4"),
        (np.float64(0.5), "0.5"),
        (np.mean([1, 2]), "1.5"),
    ],
)
@pytest.mark.parametrize("name", ["ch03_value", "a1_value"])
def test_values_are_stored_plainly_and_not_shown(shown, name, value, text):
    report.glue(name, value)
    bundle, about = shown[-1]
    assert bundle["application/papermill.record/text/plain"] == text
    assert all(kind.startswith("application/papermill.record/") for kind in bundle)
    assert about["scrapbook"]["name"] == name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("value", 1, "looks like"),
        ("ch03:value", 1, "looks like"),
        ("ch3_value", 1, "looks like"),
        ("ch03_value", float("nan"), "only finite numbers"),
        ("ch03_value", torch.tensor(float("inf")), "only finite numbers"),
        ("ch03_value", [1], "got list"),
    ],
)
def test_names_and_values_that_would_mislead_are_refused(shown, name, value, message):
    with pytest.raises(ValueError, match=message):
        report.glue(name, value)
    assert shown == []


# ---- figures and clips -------------------------------------------------------------


def test_a_figure_comes_with_words_for_eyes_ears_and_terminals(shown):
    made = plots.lines([1, 2], {"a": [1, 2]}, "x", "y")
    report.show(made, alt="A line that rises.", caption="Rise & <fall>")
    figure = soup(shown).figure
    assert figure.svg["aria-label"] == "A line that rises."
    assert figure.figcaption.get_text() == "Rise & <fall>"
    assert shown[-1][0]["text/plain"] == "A line that rises."


@pytest.mark.parametrize("alt", ["", "  ", "figure 1"])
def test_a_figure_without_words_is_refused(shown, alt):
    with pytest.raises(ValueError, match="alt text must describe"):
        report.show(plots.lines([1], {"a": [1]}, "x", "y"), alt=alt)
    with pytest.raises(ValueError, match="alt text must describe"):
        report.show_clips([moving()], [alt])


def moving(count=6, size=33):
    """A bright bar that moves over a dark ground, on an odd size: (T, H, W, 3)."""
    frames = np.full((count, size, size, 3), 30, dtype=np.uint8)
    for index in range(count):
        frames[index, :, 5 * index : 5 * index + 5] = 220
    return frames


def videos(shown):
    return [
        base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,"))
        for video in soup(shown).find_all("video")
    ]


def test_pixels_become_a_film_inside_the_page(shown):
    report.show_clips([moving()], ["A bar moves right."], ["The bar"])
    decoded = decode_mp4(videos(shown)[0])
    assert decoded.shape == (6, 32, 32, 3)
    assert np.abs(decoded.astype(float) - moving()[:, :32, :32]).mean() < 12
    video = soup(shown).video
    assert video["aria-label"] == "A bar moves right."
    assert {"controls", "muted", "loop", "playsinline"} <= set(video.attrs)
    assert "prefers-reduced-motion" in video["onplay"]
    assert soup(shown).figcaption.get_text() == "The bar"


def test_a_small_file_goes_into_the_page_as_it_is(shown, tmp_path, write_video):
    path = write_video(tmp_path / "clip.mp4", moving(size=32))
    report.show_clips([path], ["A bar moves right."])
    assert videos(shown) == [path.read_bytes()]


def test_a_large_file_is_made_small(shown, tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", np.repeat(moving(size=64), 8, axis=0))
    monkeypatch.setattr(report, "_CLIP_LIMIT", path.stat().st_size - 1)
    report.show_clips([path], ["A bar moves right."], width=48)
    decoded = decode_mp4(videos(shown)[0])
    assert decoded.shape[1:] == (48, 48, 3)
    assert len(decoded) <= 32


def test_clips_and_words_must_match(shown):
    with pytest.raises(ValueError, match="2 clips need as many alts"):
        report.show_clips([moving(), moving()], ["A bar moves right."])


def test_a_film_is_calm_once_and_then_obeys_its_reader(shown):
    report.show_clips([moving()], ["A bar moves right."])
    assert soup(shown).video["onplay"].startswith("this.onplay=null;")


def test_the_player_shows_a_video_its_frames_and_every_weight(
    shown, tmp_path, write_video
):
    path = write_video(tmp_path / "clip.mp4", moving(size=32))
    weights = [0.1, 0.2, 0.4, 0.2, 0.1, 0.0]
    queries = [
        QueryAttention("a <bar> moves", torch.tensor(weights), 2),
        QueryAttention("a bar", weights[::-1], 1),
    ]
    report.show_attention(path, moving(size=32), queries, gallery=9)
    page = soup(shown)
    assert videos(shown) == [path.read_bytes()]
    assert page.img["alt"] == "6 frames of the video, in order"
    assert "“a <bar> moves”" in page.get_text()
    assert [tag.get_text() for tag in page("strong")] == ["rank 2 of 9", "rank 1 of 9"]
    rows = page.find_all(role="img")
    assert rows[0]["aria-label"].endswith("10, 20, 40, 20, 10, 0")
    heights = [re.search(r"height:(\d+)px", bar["style"]) for bar in rows[0]("span")]
    assert [int(h[1]) for h in heights if h] == [9, 18, 36, 18, 9, 1]
    assert "rank 1 of 9" in shown[-1][0]["text/plain"]


def test_the_player_needs_a_weight_for_every_frame(shown, tmp_path, write_video):
    path = write_video(tmp_path / "clip.mp4", moving(size=32))
    with pytest.raises(ValueError, match="F"):
        report.show_attention(
            path, moving(size=32), [QueryAttention("a bar", [1.0], 1)], 3
        )


def test_diagrams_stand_side_by_side_each_with_its_words(shown):
    drawings = [diagrams.local(2), diagrams.losses(2)]
    report.show_diagrams(drawings, ["How concepts are made", "What losses want here"])
    names = [svg["aria-label"] for svg in soup(shown)("svg")]
    assert names == ["How concepts are made", "What losses want here"]
    with pytest.raises(ValueError, match="alt text must describe"):
        report.show_diagrams(drawings[:1], ["short"])


# ---- tables ------------------------------------------------------------------------


def test_a_table_has_a_caption_headers_and_aligned_numbers(shown):
    frame = pd.DataFrame(
        {"n": [1, 2], "share": [0.125, None], "word": ["<a>", "b"]}, index=["x", "y"]
    )
    report.table(frame, caption="Some & values", digits=2)
    assert soup(shown).caption.get_text() == "Some & values"
    assert rows(shown) == [
        ["", "n", "share", "word"],
        ["x", "1", "0.12", "<a>"],
        ["y", "2", "–", "b"],
    ]
    table = soup(shown).table
    assert [th["scope"] for th in table.thead.find_all("th")] == ["col"] * 3
    assert [th["scope"] for th in table.tbody.find_all("th")] == ["row"] * 2
    numbers = [cell.get_text() for cell in table.find_all(class_="number")]
    assert numbers == ["n", "share", "1", "0.12", "2", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2024, "2024"),
        (28922304, "28,922,304"),
        (np.int64(-10_000), "-10,000"),
        (75175.71, "75,175.7"),
        (np.float32(999.5), "999.5"),
        (True, "True"),
        ("28922304", "28922304"),
    ],
)
def test_long_numbers_in_tables_have_commas(shown, value, text):
    report.table(pd.DataFrame({"n": [value]}, dtype=object), caption="One value")
    assert rows(shown) == [["n"], [text]]


def test_an_index_that_only_counts_is_left_out(shown):
    report.table(pd.DataFrame({"a": ["x"]}), caption="One value")
    assert rows(shown) == [["a"], ["x"]]


def test_a_table_without_caption_is_refused(shown):
    with pytest.raises(ValueError, match="needs a caption"):
        report.table(pd.DataFrame({"a": [1]}), caption=" ")


def test_metrics_stand_beside_the_sizes_they_were_taken_over(shown):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 5, generator=generator)
    owner = torch.tensor([0, 0, 1, 2, 3, 4, 4])
    found = metrics.retrieval_metrics(scores, caption_to_video=owner)
    report.metric_table({"random": found})
    header, text_to_video, video_to_text = rows(shown)
    assert header[:3] == ["method", "direction", "R@1"]
    shown_there = dict(zip(header, text_to_video, strict=True))
    assert shown_there["R@1"] == f"{found['t2v']['R1']:.1f}"
    assert (shown_there["queries"], shown_there["gallery"]) == ("7", "5")
    shown_back = dict(zip(header, video_to_text, strict=True))
    assert (shown_back["queries"], shown_back["gallery"]) == ("5", "5")
    assert shown_back["direction"] == "video→text"


def test_shapes_are_shown_and_must_agree(shown):
    report.shape_table(
        frames=(torch.zeros(2, 12, 4), "B F D"),
        frame_mask=(torch.ones(2, 12, dtype=torch.bool), "B F"),
    )
    lines = [[re.sub(r"\s", " ", text) for text in row] for row in rows(shown)]
    assert lines[1] == ["frames", "(B, F, D)", "2 × 12 × 4", "float32"]
    assert lines[2] == ["frame_mask", "(B, F)", "2 × 12", "bool"]
    with pytest.raises(ValueError, match=r"frame_mask: axis 1 \(F\)"):
        report.shape_table(
            frames=(torch.zeros(2, 12, 4), "B F D"),
            frame_mask=(torch.zeros(2, 11), "B F"),
        )


def test_provenance_says_what_was_computed_with_what(shown):
    report.provenance({"seed": 7, "device": "cpu", "backbone": "mini"})
    found = dict(rows(shown)[1:])
    assert found["torch"] == torch.__version__
    assert found["device"] == "CPU"
    assert found["parameter seed"] == "7"
    assert found["parameter backbone"] == "'mini'"
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", found["commit"])
