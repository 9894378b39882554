"""Check the params, the files that they name and the checkout before DVC starts.

DVC does not report unused parameters, nor does it name corpus.path if the corpus is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.common.params import load_params
from pipeline.common.paths import TRAINING_LOCK
from pipeline.common.process import lock_training
from pipeline.common.stage import run, warn

DVC_CONFIG = Path(".dvc/config.local")


def main():
    parser = argparse.ArgumentParser(prog="python -m pipeline.check", description=__doc__)
    parser.add_argument(
        "--experiment",
        action="store_true",
        help="fail if git does not work here, because `dvc exp run` needs it",
    )
    args = parser.parse_args()
    check_files(load_params())
    check_no_training()
    problem = git_problem()
    if problem and args.experiment:
        raise ValueError(f"experiments need a git clone: {problem}")
    if problem:
        warn(f"{problem}; `dvc repro` works, but experiments need a git clone")
    configure_scm()


def check_files(params):
    """Raise ValueError if a file that params.yaml names does not exist."""
    if not Path(params.corpus.path).is_file():
        raise ValueError(
            f"corpus {params.corpus.path} does not exist; put a text file there or change"
            " corpus.path"
        )
    if params.train.init and not Path(params.train.init).is_file():
        raise ValueError(
            f"weights file {params.train.init} does not exist; put it there or change train.init"
        )


def check_no_training():
    """Raise ValueError if another process is training in this checkout: `dvc repro` would wait for
    it, and `dvc exp run` would overwrite the params.yaml that the active run checks when it ends.
    """
    if TRAINING_LOCK.exists():
        with lock_training():
            pass


def is_in_git():
    here = Path.cwd()
    return any((folder / ".git").exists() for folder in (here, *here.parents))


def git_problem():
    """Return why git does not work in this checkout, or "" if it does."""
    if not is_in_git():
        return "this checkout is not a git repository"
    if not shutil.which("git"):
        return "git is not installed"
    english = os.environ | {"LC_ALL": "C"}
    command = ["git", "rev-parse", "--git-dir"]
    result = subprocess.run(command, env=english, capture_output=True, text=True)
    if "safe.directory" in result.stderr:
        allow = f"git config --global --add safe.directory '{Path.cwd()}'"
        return f"another user owns this checkout; run `{allow}`"
    return " ".join(result.stderr.split())


def configure_scm():
    """Have DVC work without git if there is none, as in an archive of this repository."""
    without_git = not is_in_git()
    configured = DVC_CONFIG.exists() and "no_scm" in DVC_CONFIG.read_text(encoding="utf-8")
    if without_git != configured:
        change = ["core.no_scm", "true"] if without_git else ["--unset", "core.no_scm"]
        subprocess.run([sys.executable, "-m", "dvc", "config", "--local", *change], check=True)


if __name__ == "__main__":
    run(main)
