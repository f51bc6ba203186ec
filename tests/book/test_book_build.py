"""The builder refuses bad input, runs what changed, keeps what did not, and says so."""

import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from tiny_book import BODY, ROOT, chapter, tiny_book, write_chapter, write_set

from book import build
from book.builder import execute, manifest, parameters, sources
from book.builder.project import BuildError

DEFAULTS = {"01_a": {"seed": 0, "rate": 0.5, "name": "a", "limit": None, "fast": True}}


def read_set(tmp_path, **content):
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump(content))
    return parameters.read_set(path, DEFAULTS)


# ---- parameters --------------------------------------------------------------------


def test_common_values_reach_a_notebook_and_its_own_values_win(tmp_path):
    values, timeout = read_set(
        tmp_path,
        cell_timeout=7,
        common={"seed": 1, "rate": 2},
        notebooks={"01_a": {"seed": 2}},
    )
    assert timeout == 7
    assert values["01_a"] == DEFAULTS["01_a"] | {"seed": 2, "rate": 2}


def test_a_parameter_named_like_a_setting_has_its_choices_and_range(tmp_path):
    path = tmp_path / "params.yaml"
    defaults = {
        "precision": "fp32",
        "epochs": 3,
        "micro_batch": None,
        "missing": "refuse",
        "free": None,
    }
    least = "a whole number of at least 1"
    for content, sentence in (
        ("precision: fp17", "precision must be 'fp32', 'bf16' or 'fp16', got 'fp17'"),
        ("epochs: 0", f"epochs must be {least}, got 0"),
        ("micro_batch: 0", f"micro_batch must be {least}, or null, got 0"),
        ("missing: keep", "missing must be 'refuse' or 'drop', got 'keep'"),
    ):
        path.write_text(f"common: {{{content}}}")
        with pytest.raises(BuildError) as caught:
            parameters.read_set(path, {"01_a": defaults})
        assert str(caught.value) == f"params.yaml, 01_a: {sentence}."
    path.write_text("common: {micro_batch: 8, free: [anything]}")
    values, _ = parameters.read_set(path, {"01_a": defaults})
    assert values["01_a"] == defaults | {"micro_batch": 8, "free": ["anything"]}


def test_a_parameter_file_in_another_encoding_is_one_sentence(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("common: {name: \xe9}".encode("latin-1"))
    with pytest.raises(BuildError, match=r"params\.yaml is not UTF-8: byte 15"):
        parameters.read_set(path, DEFAULTS)


@pytest.mark.parametrize("content", ["common: {", "common: !!int x", "a: b: c"])
def test_a_parameter_file_that_is_not_yaml_is_one_sentence(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(BuildError, match=r"^params\.yaml is not YAML: .*\.$") as caught:
        parameters.read_set(path, DEFAULTS)
    assert "\n" not in str(caught.value)


def test_values_of_a_file_and_of_the_command_line_are_read_alike(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("common: {rate: 5e-4, fast: false, name: 2024-01-01}")
    values, _ = parameters.read_set(path, DEFAULTS)
    given = parameters.assignments(["rate=5e-4", "fast=false", "name=2024-01-01"])
    assert given == {"rate": 5e-4, "fast": False, "name": "2024-01-01"}
    assert values["01_a"] == DEFAULTS["01_a"] | given


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"notebooks": {"01_a": {"sed": 1}}}, "unknown name 'sed'"),
        ({"notebooks": {"02_b": {"seed": 1}}}, "unknown name '02_b'"),
        ({"common": {"sed": 1}}, "common: unknown name 'sed'; known: fast, limit"),
        ({"common": 5}, "common: expected a mapping, found 5"),
        ({"common": ["seed"]}, "common: expected a mapping"),
        ({"notebooks": False}, "notebooks: expected a mapping"),
        ({"common": {"rate": float("inf")}}, "rate must be a number, got inf"),
        ({"communal": {}}, "unknown name 'communal'"),
        ({"common": {"seed": "1"}}, "01_a: seed must be a whole number, got '1'"),
        ({"common": {"seed": True}}, "seed must be a whole number, got True"),
        ({"common": {"name": None}}, "name must be text, got None"),
        ({"notebooks": {"01_a": [1]}}, "expected a mapping"),
        ({"cell_timeout": "15m"}, "cell_timeout must be a whole number of seconds"),
        ({"cell_timeout": None}, "cell_timeout must be a whole number of seconds"),
    ],
)
def test_a_value_that_no_notebook_takes_is_refused(tmp_path, content, message):
    with pytest.raises(BuildError, match=message.replace("(", r"\(")):
        read_set(tmp_path, **content)


def test_an_unknown_set_names_the_known_ones(tmp_path):
    (tmp_path / "smoke.yaml").touch()
    with pytest.raises(BuildError, match=r"No parameter set 'huge' .*known: smoke"):
        parameters.read_set(tmp_path / "huge.yaml", DEFAULTS)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("a = 1\n", "needs a comment"),
        ("a = f(1)  # call\n", "must be a literal"),
        ("import os  # no\n", "may only hold lines"),
        ("a = b = 1  # two\n", "may only hold lines"),
        ("a =\n", "is not Python"),
    ],
)
def test_a_parameters_cell_holds_commented_literals_only(cell, message):
    with pytest.raises(BuildError, match=message):
        parameters.declared(cell, "x.ipynb")


def test_declared_parameters_are_read_without_running_the_cell():
    cell = 'a = -1  # minus\nb = [1, "x"]  # list\nc = None  # nothing\n'
    assert parameters.declared(cell, "x") == {"a": -1, "b": [1, "x"], "c": None}


# ---- running -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A book of two chapters, run and rendered once; tests work on copies of it."""
    root = tmp_path_factory.mktemp("made")
    stamp = "import time\n\nprint(time.time_ns())\n"
    chapters = {
        "01_a": chapter(),
        "02_b": chapter(stamp, tag="timing"),
    }
    chapters["02_b"].cells[0].source = (
        chapters["02_b"]
        .cells[0]
        .source.replace(", and a number: {glue:text}`ch01_twice:.1f`", "")
        .replace("(ch01)=", "(ch02)=")
    )
    project = tiny_book(root, chapters)
    assert build.main(["book", "--params", "smoke"], root) == 0
    return project


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "book", dirs_exist_ok=True)
    return type(made)(tmp_path / "book")


def executed(project, name="01_a"):
    return sources.read(project.executed / f"{name}.ipynb")


def text_of(notebook):
    return "".join(o.get("text", "") for o in notebook.cells[-1].outputs)


def entries(project):
    return json.loads((project.build / "manifest.json").read_text())["notebooks"]


def test_a_run_takes_the_values_of_the_set_and_is_tidied(made):
    notebook = executed(made)
    assert text_of(notebook) == "seed 3\n"
    injected = sources.tagged(notebook, execute.INJECTED)[0]
    assert "hide-input" in sources.tags(injected)
    shown = injected.metadata["mystnb"]["code_prompt_show"]
    assert shown == "Values this page was run with"
    raw = (made.executed / "01_a.ipynb").read_text()
    for trace in ('papermill":', "start_time", "iopub", str(made.root)):
        assert trace not in raw
    assert notebook.metadata["kernelspec"]["name"] == "python3"


def test_the_manifest_says_what_a_page_was_made_from(made):
    entry = entries(made)["01_a"]
    assert entry["parameters"] == {"seed": 3, "name": "a", "rate": 0.5}
    assert entry["parameter_set"] == "smoke"
    assert entry["seconds"] > 0
    assert {"python", "torch"} <= set(entry["versions"])
    assert all(entry[key] for key in ("source", "code", "commit", "device"))


def test_the_kernel_is_this_environment_and_lies_in_the_build(made):
    folder = made.build / "jupyter/kernels" / execute.KERNEL
    spec = json.loads((folder / "kernel.json").read_text())
    assert Path(spec["argv"][0]).is_relative_to(sys.prefix)


def test_nothing_changed_means_nothing_is_done(copied, capsys):
    before = (copied.executed / "01_a.ipynb").stat().st_mtime_ns
    assert build.main(["book", "--params", "smoke"], copied.root) == 0
    assert (copied.executed / "01_a.ipynb").stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "keep  01_a: unchanged" in said
    assert "pages: unchanged" in said
    assert build.main(["check", "--params", "smoke"], copied.root) == 0


def change_package(project):
    (project.root / "glscl/part.py").write_text("x = 1\n")


def change_source(project):
    write_chapter(project, "01_a", chapter(BODY + "x = 1\n"))


def change_values(project):
    write_set(project, common={"seed": 4})


def change_results(project):
    (project.book / "results/table.json").write_text("{}")


def change_output(project):
    path = project.executed / "01_a.ipynb"
    path.write_text(path.read_text().replace("seed 3", "seed 5"))


def lose_output(project):
    (project.executed / "01_a.ipynb").unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_package, "glscl changed"),
        (change_source, "the notebook changed"),
        (change_values, "the parameters changed"),
        (change_results, "book/results"),
        (change_output, "the executed copy was altered"),
        (lose_output, "not run yet"),
    ],
)
def test_whatever_a_page_is_made_from_makes_it_stale(copied, capsys, change, reason):
    change(copied)
    assert build.main(["check", "--params", "smoke"], copied.root) == 1
    assert f"01_a: {reason}" in capsys.readouterr().err


def test_what_no_chapter_imports_makes_none_stale(copied):
    (copied.root / "glscl/search/__init__.py").write_text("x = 1\n")
    assert build.main(["check", "--params", "smoke"], copied.root) == 0


def test_other_installed_versions_make_a_page_stale(made):
    recorded = entries(made)["01_a"]
    now = {"code": {}, "versions": recorded["versions"] | {"torch": "0.0"}}
    output = made.executed / "01_a.ipynb"
    assert "versions" in manifest.stale(recorded, now, output, made.root)


def test_only_the_changed_chapter_is_run_again(copied, capsys):
    change_source(copied)
    kept = entries(copied)["02_b"]
    assert build.main(["run", "--params", "smoke"], copied.root) == 0
    said = capsys.readouterr().out
    assert "keep  02_b" in said
    assert "run  01_a: the notebook changed" in said
    assert entries(copied)["02_b"] == kept


def test_braces_in_the_path_of_the_checkout_are_no_parameters(tmp_path, capsys):
    project = tiny_book(tmp_path / "a{b}c", {"01_a": chapter()})
    assert build.main(["book", "--params", "smoke"], project.root) == 0
    assert text_of(executed(project)) == "seed 3\n"
    write_chapter(project, "01_a", chapter('wrong = {}["key"]'))
    assert build.main(["run", "--params", "smoke"], project.root) == 1
    assert "notebooks/01_a.ipynb, code cell [4]: KeyError" in capsys.readouterr().err


def test_a_failing_cell_is_shown_and_the_old_page_stays(copied, capsys):
    before = (copied.executed / "01_a.ipynb").read_bytes()
    recorded = entries(copied)["01_a"]
    write_chapter(copied, "01_a", chapter('wrong = {}["key"]'))
    assert build.main(["run", "--params", "smoke", "--only", "01_a"], copied.root) == 1
    said = capsys.readouterr().err
    assert "notebooks/01_a.ipynb" in said
    assert 'wrong = {}["key"]' in said
    assert "KeyError: 'key'" in said
    assert "Traceback" in said
    assert (copied.executed / "01_a.ipynb").read_bytes() == before
    assert entries(copied)["01_a"] == recorded
    assert not list(copied.executed.glob(".*partial*"))


def test_a_value_left_at_the_end_of_a_cell_is_refused(copied, capsys):
    before = (copied.executed / "01_a.ipynb").read_bytes()
    write_chapter(copied, "01_a", chapter(BODY + "object()\n"))
    assert build.main(["run", "--params", "smoke", "--only", "01_a"], copied.root) == 1
    said = capsys.readouterr().err
    assert "notebooks/01_a.ipynb" in said
    assert "cell body ends in an expression, shown as <object at" in said
    assert (copied.executed / "01_a.ipynb").read_bytes() == before


def test_the_same_seed_twice_gives_the_same_pages_except_timing_cells(made, capsys):
    assert build.main(["repeat", "--params", "smoke"], made.root) == 0
    assert "2 notebooks gave the same outputs twice" in capsys.readouterr().out


def test_a_cell_that_differs_between_two_runs_is_named(tmp_path):
    one, other = chapter(), chapter()
    for value, notebook in enumerate((one, other)):
        notebook.cells[-1].outputs = [
            nbformat.v4.new_output("stream", text=f"c0ffee{value}")
        ]
        nbformat.write(notebook, tmp_path / f"{value}.ipynb")
    paths = (tmp_path / "0.ipynb", tmp_path / "1.ipynb")
    assert list(execute.differences(*paths)) == ["0: cell body differs"]
    assert list(execute.differences(*paths, commits=("c0ffee0", "c0ffee1"))) == []
    for path, notebook in zip(paths, (one, other), strict=True):
        notebook.cells[-1].metadata["tags"] = ["timing"]
        nbformat.write(notebook, path)
    assert list(execute.differences(*paths)) == []


def test_an_unknown_chapter_is_refused_with_the_known_ones(made, capsys):
    arguments = ["run", "--params", "smoke", "--only", "09_x"]
    assert build.main(arguments, made.root) == 1
    assert "No chapter '09_x'; known: 01_a, 02_b" in capsys.readouterr().err


def test_a_damaged_manifest_is_named(copied, capsys):
    (copied.build / "manifest.json").write_text("{")
    assert build.main(["check", "--params", "smoke"], copied.root) == 1
    assert "is not a manifest" in capsys.readouterr().err


# ---- pages -------------------------------------------------------------------------


def test_pages_show_runtime_glue_and_local_maths(made):
    page = (made.html / "notebooks/01_a.html").read_text()
    assert "parameters <code" in page
    assert "measured later" not in page
    assert '<span class="pasted-text">6.0</span>' in page
    assert "_static/tex-svg.js" in page
    assert (made.html / "_static/tex-svg.js").stat().st_size > 1_000_000
    assert "thebe" not in page.lower()


def test_a_warning_stops_the_pages_and_keeps_the_old_ones(copied, capsys):
    before = (copied.html / "book/intro.html").read_bytes()
    (copied.book / "intro.md").write_text("# A book\n\nSee {doc}`nowhere`.\n")
    assert build.main(["book", "--params", "smoke"], copied.root) == 1
    assert "unknown document: 'nowhere'" in capsys.readouterr().err
    assert (copied.html / "book/intro.html").read_bytes() == before


def test_the_makefile_has_its_targets_and_names_no_host():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("book:", "test:", "check:", "benchmark:", "clean:"):
        assert f"\n{target}" in makefile
    assert "://" not in makefile


def test_values_from_the_command_line_reach_the_notebooks_that_have_them():
    defaults = {"one": {"seed": 0, "root": "data"}, "two": {"seed": 0}}
    given = parameters.assignments(["seed=3", "root=/some/where"])
    assert given == {"seed": 3, "root": "/some/where"}
    values = {name: dict(of) for name, of in defaults.items()}
    assert parameters.changed(values, given, defaults) == {
        "one": {"seed": 3, "root": "/some/where"},
        "two": {"seed": 3},
    }
    with pytest.raises(BuildError, match="unknown name 'sead'"):
        parameters.changed(values, {"sead": 1}, defaults)
    with pytest.raises(BuildError, match="seed must be a whole number, got 'x'"):
        parameters.changed(values, {"seed": "x"}, defaults)
    with pytest.raises(BuildError, match="NAME=VALUE, got"):
        parameters.assignments(["seed"])
