# Every notebook opens with this cell. It finds the project's folder; on Colab
# it fetches the project first, and what it lacks, but never another torch.
# REPOSITORY is the project's git address; only Colab needs it.
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""

here = Path.cwd()
if "google.colab" in sys.modules and here.name != "glscl-book":
    here = here / "glscl-book"
    if not here.is_dir():
        assert REPOSITORY, "Set REPOSITORY above to the git address."
        subprocess.run(["git", "clone", "-q", REPOSITORY, here], check=True)
    subprocess.run([sys.executable, here / "book/colab.py"], check=True)
folders = [f for f in (here, *here.parents) if (f / "_toc.yml").is_file()]
assert folders, f"No checkout of the project at or above {here}."
os.chdir(folders[0])
if str(folders[0]) not in sys.path:
    sys.path.insert(0, str(folders[0]))
