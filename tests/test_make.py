"""make on machines that are set up in other ways."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import Checkout, lend_environment
from filelock import FileLock

UP_TO_DATE = "Data and pipelines are up to date."
NOBODY = 54321  # an id of no user


def test_it_creates_an_environment_that_does_not_work_again(fresh, tmp_path):
    """One that was moved, whose Python is gone or another one, or that was left half-made."""

    def environment(checkout, *options):
        checkout.run("make", ".venv/.created", *options)
        script = (checkout.path / ".venv/bin/activate").read_text()
        assert f"{checkout.path}/.venv" in script
        checkout.run(".venv/bin/python", "-m", "pip", "--version")
        return (checkout.path / ".venv/.created").stat().st_mtime_ns

    first = environment(fresh)
    assert environment(fresh) == first
    moved = Checkout(shutil.move(fresh.path, tmp_path / "moved"))
    second = environment(moved)
    assert second != first
    (moved.path / ".venv/bin/python").unlink()
    (moved.path / ".venv/bin/python").symlink_to(tmp_path / "no-python")
    third = environment(moved)
    assert third != second
    assert environment(moved, f"PYTHON={sys.executable}") == third
    created = moved.path / ".venv/.created"
    created.write_text(created.read_text().replace(sys.base_prefix, "/another"))
    fourth = environment(moved, f"PYTHON={sys.executable}")
    assert fourth != third
    shutil.move(moved.path / ".venv", tmp_path / "environment")
    (moved.path / ".venv").symlink_to(tmp_path / "environment")
    moved.run("make", ".venv/.created")
    assert (moved.path / ".venv").is_symlink()
    result = moved.run("make", ".venv/.created", "PYTHON=no-python", code=2)
    assert "no-python" in result.stderr


def test_an_archive_without_git(finished):
    lend_environment(finished)
    (finished.path / ".git").rename(finished.path / "git")
    err = finished.run("make", "best", code=2).stderr
    assert err.splitlines()[0] == (
        "error: experiments need a git clone: this checkout is not a git repository"
    )
    result = finished.run("make", "repro")
    assert UP_TO_DATE in result.stdout
    assert result.stderr == (
        "warning: this checkout is not a git repository; `dvc repro` works, but experiments need a"
        " git clone\n"
    )
    assert UP_TO_DATE in finished.run("dvc", "repro").stdout
    (finished.path / "git").rename(finished.path / ".git")
    assert finished.run("make", "repro").stderr == ""
    assert "no_scm" not in (finished.path / ".dvc/config.local").read_text()


def test_it_refuses_to_disturb_a_training(finished):
    lend_environment(finished)
    message = "error: another training is running in this checkout; wait until it ends"
    message += " (data/training.lock)"
    with FileLock(finished.path / "data/training.lock"):
        for target in ("repro", "seconds"):
            assert finished.run("make", target, code=2).stderr.splitlines()[0] == message
    assert UP_TO_DATE in finished.run("make", "repro").stdout


def test_a_machine_without_git(finished, tmp_path):
    lend_environment(finished)
    for name in ("make", "sh", "env", "cat", "id"):
        (tmp_path / name).symlink_to(shutil.which(name))
    finished.environment["PATH"] = str(tmp_path)
    finished.set_params(sample={"seed": 2})
    result = finished.run(shutil.which("make"), "repro")
    assert "Running stage 'sample'" in result.stdout
    assert result.stderr == (
        "warning: git is not installed; `dvc repro` works, but experiments need a git clone\n"
    )


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="without root's right to be others"
)
def test_a_user_without_a_name_and_a_checkout_of_another_user(finished):
    lend_environment(finished)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", finished.path], check=True)
    allowed = "+dac_read_search,+dac_override"  # this environment may be root's
    ids = ("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    switch = ("setpriv", *ids, "--inh-caps", allowed, "--ambient-caps", allowed)
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        finished.environment.pop(name, None)
    finished.environment["HOME"] = str(finished.path)
    assert UP_TO_DATE in finished.run(*switch, "make", "repro").stdout
    err = finished.run("make", "seconds", code=2).stderr
    assert err.splitlines()[0] == (
        "error: experiments need a git clone: another user owns this checkout; run"
        f" `git config --global --add safe.directory '{finished.path}'`"
    )


def test_another_python_than_that_of_the_environment(fresh):
    err = fresh.run(sys.executable, "-S", "-m", "pipeline.prepare", code=1).stderr
    assert err.startswith(f"error: {sys.executable} does not have dvc, filelock, ")
    assert err.endswith("activate the environment of this checkout with `source .venv/bin/activate`\n")
    assert err.count("\n") == 1
