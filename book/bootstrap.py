# @title Find the project, or fetch it
# Every notebook opens with this cell. It looks for the project's folder above,
# in here, and in /content. On Colab it fetches it if need be and installs what
# is missing, but never another torch, numpy or ipykernel. Run it as you like.
import os
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

# The project's git address, and the commit that this notebook belongs to;
# only Colab needs them, and without a commit it takes the newest.
REPOSITORY = ""
COMMIT = ""
MARK = "book/bootstrap.py"  # a file by which the project is known
HOW = (
    "This notebook does not know the address of its project: upload an "
    "archive of it (made by `git archive -o glscl.zip HEAD`) beside this "
    "notebook, or set REPOSITORY above, and run this cell again."
)


def find(here):
    """The project's folder: above `here`, two levels below, or in /content."""
    tops, levels = (here, Path("/content")), ("*/", "*/*/")
    below = (f for top in tops for x in levels for f in sorted(top.glob(x)))
    folders = chain([here], here.parents, below)
    return next((f for f in folders if (f / MARK).is_file()), None)


def fetch(folder):
    """The project into `folder`: from an archive beside it, or by git."""
    folder.mkdir(exist_ok=True)
    for path in filter(zipfile.is_zipfile, folder.parent.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            if any(x.endswith(MARK) for x in archive.namelist()):
                return archive.extractall(folder)
    assert REPOSITORY, HOW
    asked = ["--depth", "1", REPOSITORY, COMMIT or "HEAD"]
    for words in (["init"], ["fetch", *asked], ["checkout", "FETCH_HEAD"]):
        git = ["git", *words[:1], "-q", *words[1:]]
        subprocess.run(git, cwd=folder, check=True)


colab = "google.colab" in sys.modules
if colab and find(Path.cwd()) is None:
    fetch(Path.cwd() / "glscl-book")
project = find(Path.cwd())
assert project, f"No checkout of the project at or above {Path.cwd()}."
os.chdir(project)
if str(project) not in sys.path:
    sys.path.insert(0, str(project))
if colab:
    from book.colab import main

    main(COMMIT)
