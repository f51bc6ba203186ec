"""A claim is decided by its data, and a text that says otherwise stops the build."""

import numpy as np
import pytest
from nbformat.v4 import new_markdown_cell, new_output
from tiny_book import BODY, ROOT, chapter, tiny_book

from book import build
from book.builder import claims as built
from book.builder import claims_page, sources, uncovered
from book.builder.downloads import PlainMarkdown
from book.builder.project import Project
from book.kit import claims, evidence
from book.kit.evidence import CLOSE, FAILS, HOLDS, UNTESTED

RNG = np.random.default_rng(0)
VIDEOS = np.repeat(np.arange(60), 5)
NOISE = RNG.normal(size=(5, 300))
SEEDS = np.array([0.1, -0.1, 0.05, -0.05, 0.0])[:, None]
#: By kind: evidence for a true and for a false claim of that kind.
KINDS = {
    "identity": (
        evidence.identity([1.0, 2.0], [1.0, 2.0 + 1e-9], 1e-6, "nats"),
        evidence.identity([1.0, 2.0], [1.0, 2.1], 1e-6, "nats"),
    ),
    "difference": (
        evidence.difference(NOISE + 1 + SEEDS, NOISE, "%", "R@1", VIDEOS),
        evidence.difference(NOISE - 1 + SEEDS, NOISE, "%", "R@1", VIDEOS),
    ),
    "count": (
        evidence.count(3, 3, "clips", equals=3),
        evidence.count(2, 3, "clips", equals=3),
    ),
    "share": (
        evidence.share([True] * 90 + [False] * 10, "noticed", above=50),
        evidence.share([True] * 10 + [False] * 90, "noticed", above=50),
    ),
    "ordering": (
        evidence.ordering({"a": [3.0], "b": [2.0], "c": [1.0]}, "G"),
        evidence.ordering({"a": [3.0], "b": [1.0], "c": [2.0]}, "G"),
    ),
}


@pytest.fixture
def shown(monkeypatch):
    """Everything that is displayed, as (mime bundle, metadata)."""
    import IPython.display

    calls = []
    monkeypatch.setattr(
        IPython.display,
        "display",
        lambda bundle, raw, metadata: calls.append((bundle, metadata)),
    )
    return calls


def state(found, **options):
    return claims.claim("ch01_x", "It is so.", found, "the opposite", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_true_claims_hold_and_false_ones_do_not(shown, kind):
    for found in KINDS[kind]:
        state(found)
    true, false = (about["claim"] for _, about in shown)
    assert (true["verdict"], false["verdict"]) == (HOLDS, FAILS)
    assert not claims.contradicts(true)
    assert claims.contradicts(false)
    assert "✗ does not hold" in shown[1][0]["text/html"]
    assert 'id="ch01_x"' in shown[1][0]["text/html"]


def test_a_difference_that_the_data_do_not_decide_is_too_close_to_call():
    nothing = evidence.difference(NOISE + SEEDS, NOISE[:, ::-1], "%", "R@1", VIDEOS)
    assert nothing.verdict == CLOSE
    assert nothing.n == {"seeds": 5, "videos": 60}


def test_seeds_that_disagree_are_not_outvoted_by_many_videos():
    apart = np.array([9.0, 0.2, 0.1, 0.1, 0.1])[:, None]
    found = evidence.difference(NOISE + apart, NOISE, "%", "R@1", VIDEOS)
    assert found.verdict == CLOSE
    low, high = found.measured[0].intervals["t over seeds"]
    assert low < 0 < high


def test_three_seeds_get_no_verdict():
    found = evidence.difference(NOISE[:3] + 5, NOISE[:3], "%", "R@1", VIDEOS)
    assert found.verdict == UNTESTED


def test_one_pair_of_fixed_models_has_an_interval_over_videos():
    found = evidence.difference(NOISE[0] + 1, NOISE[0], "%", "R@1", VIDEOS)
    assert found.verdict == HOLDS
    assert list(found.measured[0].intervals) == ["bootstrap over videos"]
    assert found.n == {"videos": 60}
    found = evidence.difference(NOISE[0] + 1, NOISE[0], "%", "R@1", cases="stills")
    assert list(found.measured[0].intervals) == ["bootstrap over stills"]
    assert list(found.n) == ["stills"]


def test_a_family_needs_more_evidence_than_one_difference():
    weak = np.array([0.2, 1.8, 1.0, 1.7, 0.3])[:, None] + NOISE
    pairs = {"one": (weak, NOISE)}
    assert evidence.differences(pairs, "%", VIDEOS)["one"].verdict == HOLDS
    pairs |= {f"other {i}": (NOISE + SEEDS, NOISE[:, ::-1]) for i in range(19)}
    found = evidence.differences(pairs, "%", VIDEOS)["one"]
    assert found.verdict == CLOSE
    assert "Holm over 20" in found.method


def test_the_opposite_of_a_difference_is_the_difference_of_the_opposite():
    one = evidence.opposite(evidence.difference(NOISE + 1 + SEEDS, NOISE, "%", "R@1"))
    two = evidence.difference(NOISE, NOISE + 1 + SEEDS, "%", "R@1")
    assert one.verdict == two.verdict == FAILS
    assert one.measured[0].value == pytest.approx(two.measured[0].value)
    for name, ends in two.measured[0].intervals.items():
        assert one.measured[0].intervals[name] == pytest.approx(ends, abs=0.02)


def test_an_ordering_over_seeds_needs_every_step():
    rows = {"a": NOISE + 4 + SEEDS, "b": NOISE + 2, "c": NOISE + SEEDS[::-1]}
    assert evidence.ordering(rows, "%", VIDEOS).verdict == HOLDS
    rows["b"] = NOISE + 4 - SEEDS
    assert evidence.ordering(rows, "%", VIDEOS).verdict == CLOSE
    rows["b"] = NOISE + 6 - SEEDS
    assert evidence.ordering(rows, "%", VIDEOS).verdict == FAILS


def test_with_too_little_a_claim_is_neither_passed_nor_failed(shown):
    needs = {"test clips": (100, 300)}
    state(KINDS["count"][1], needs=needs)
    record = shown[0][1]["claim"]
    assert record["verdict"] == UNTESTED
    assert not claims.contradicts(record)
    assert "test clips: 100 of 300" in shown[0][0]["text/plain"]
    state(KINDS["count"][1], needs={"test clips": (300, 300)})
    assert shown[1][1]["claim"]["verdict"] == FAILS


def test_a_text_may_say_that_the_data_do_not_decide(shown):
    found = KINDS["difference"][0]
    state(found, says=CLOSE)
    assert claims.contradicts(shown[0][1]["claim"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: claims.claim("x", "It is.", KINDS["count"][0], "no"), "looks like"),
        (lambda: state(KINDS["count"][0], says="true"), "says is one of"),
        (lambda: claims.claim("ch01_x", "It is.", KINDS["count"][0], " "), "refute"),
        (lambda: evidence.count(1, 2, "clips"), "give one of"),
        (lambda: evidence.share([True], "x"), "either above or below"),
        (lambda: evidence.identity([np.nan], [1.0], 1, "m"), "finite"),
        (lambda: evidence.difference(1.0, 0.0, "m", "x"), "no interval"),
    ],
)
def test_a_claim_that_cannot_be_tested_is_refused(shown, call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the build ---------------------------------------------------------------------

CALL = """
from book.kit import claims, evidence
found = evidence.count({found}, 2, "clips", equals=2)
claims.claim("ch01_one", "It *is* so.", found, "a third clip")
"""
SAID = "Look: It *is*\nso. {claim}`ch01_one`"


def claiming(tmp_path, found=2, said=SAID, call=CALL):
    """A book of one chapter with one claim."""
    notebook = chapter(BODY + call.replace("{found}", str(found)))
    notebook.cells.insert(1, new_markdown_cell(said, id="said"))
    return tiny_book(tmp_path, {"01_a": notebook})


@pytest.fixture
def importable(monkeypatch):
    """The kernel of a small book finds ``book.kit`` of this one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_false_claim_stops_the_run(tmp_path, capsys, importable):
    project = claiming(tmp_path, found=1)
    assert build.main(["run", "--params", "smoke"], root=project.root) == 1
    said = capsys.readouterr().err
    assert "ch01_one: the text says “holds”, the data “does not hold”" in said
    assert not (project.executed / "01_a.ipynb").exists()


def test_a_true_claim_is_run_and_shown_on_its_page(tmp_path, importable):
    project = claiming(tmp_path)
    assert build.main(["run", "--params", "smoke"], root=project.root) == 0
    found = built.records(project)
    assert built.put_badges(SAID, found) == (
        'Look: It *is*\nso. <a class="glscl-badge glscl-badge-holds" '
        'href="../book/claims.html#ch01_one">✓ holds, n = 2 cases</a>'
    )
    copy = PlainMarkdown(project).convert("So. {claim}`ch01_one`", "01_a")
    assert copy == "So. [✓ holds, n = 2 cases]"
    page = claims_page.make(project, "table")
    assert '<span id="ch01_one">It <em>is</em> so.</span>' in page
    assert 'href="../notebooks/01_a.html#ch01_one"' in page
    assert "make book PARAMS=smoke ONLY=01_a" in page
    assert "<td>together 1</td><td>1</td>" in claims_page.make(project, "summary")


@pytest.mark.parametrize("kind", KINDS)
def test_a_false_claim_of_any_kind_is_a_fault_of_its_chapter(shown, kind):
    for found in KINDS[kind]:
        state(found)
    notebook = chapter()
    outputs = [
        new_output("display_data", data=data, metadata=about) for data, about in shown
    ]
    notebook.cells[-1].outputs = outputs[:1]
    built.check_verdicts(notebook)  # the true one
    notebook.cells[-1].outputs = outputs
    with pytest.raises(ValueError, match="the text says “holds”, the data “does not"):
        built.check_verdicts(notebook)


def test_a_claim_that_was_not_run_has_no_badge(tmp_path):
    project = claiming(tmp_path)
    assert built.put_badges(SAID, built.records(project)).endswith("so. (not run)")
    assert "Not run in this build: 1 claims" in claims_page.make(project, "summary")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("It is not so. {claim}`ch01_one`", "does not say “It *is* so.”"),
        ("It *is* so.", "no sentence has the badge"),
        (SAID + " It is. {claim}`ch01_two`", "no chapter makes the claim ch01_two"),
    ],
)
def test_a_text_that_words_a_claim_otherwise_stops_the_build(
    tmp_path, capsys, said, message
):
    project = claiming(tmp_path, said=said)
    assert build.main(["sources"], root=project.root) == 1
    assert message in capsys.readouterr().err


def test_a_claim_must_be_readable_without_running(tmp_path):
    call = CALL.replace('"It *is* so."', '"It is " + "so."')
    found = list(built.check(claiming(tmp_path, call=call)))
    assert any("must be literals" in fault for fault in found)


def test_the_chapters_state_their_claims_in_their_prose():
    assert list(built.check(Project(ROOT))) == []


def test_a_prose_page_may_repeat_a_claim(tmp_path):
    project = claiming(tmp_path)
    page = project.book / "intro.md"
    page.write_text(page.read_text() + "\nIt *is* so. {claim}`ch01_one`\n")
    assert list(built.check(project)) == []
    page.write_text("# A book\n\nIt *was* so. {claim}`ch01_one`\n")
    assert len(list(built.check(project))) == 1


def test_other_outputs_are_no_claims(tmp_path):
    project = claiming(tmp_path)
    notebook = sources.read(project.notebooks / "01_a.ipynb")
    notebook.cells[-1].outputs = [new_output("stream", text="holds")]
    assert list(built.recorded(notebook)) == []


# ---- interpreting sentences without a claim ----------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is better. It is blue.", [["better"]]),
        ("That shows it because\nit does not.", [["because", "does not", "shows"]]),
        ("It is better. {claim}`ch01_x` And so on.", []),
        ("It is better. And worse. {claim}`ch01_x`", [["better"]]),
        ("## What is better\n\n```\nmore\n```\n`more`", []),
        ("- one is larger\n- two is small", [["larger"]]),
    ],
)
def test_interpreting_sentences_are_those_that_compare_or_give_reasons(text, words):
    assert [found for _, found in uncovered.sentences(text)] == words


def test_an_interpreting_sentence_needs_a_claim_or_a_reason(tmp_path, capsys):
    project = claiming(tmp_path, said=SAID + "\n\nThis is better.")
    assert build.main(["sources"], root=project.root) == 1
    report = (project.build / uncovered.NAME).read_text()
    assert "notebooks/01_a.ipynb, cell said: This is better. [better]" in report
    assert "1 interpreting sentences with neither" in capsys.readouterr().err
    (project.book / "reasons").mkdir()
    given = project.book / "reasons" / "01_a.yml"
    given.write_text("definition:\n- This is better.\n")
    assert build.main(["sources"], root=project.root) == 0
    given.write_text("definition:\n- This is better.\n- This was better.\n")
    assert build.main(["sources"], root=project.root) == 1
    report = (project.build / uncovered.NAME).read_text()
    assert "no longer said, 01_a: This was better." in report
