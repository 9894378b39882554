"""make on unusual setups."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import Checkout, lend_environment
from filelock import FileLock

UP_TO_DATE = "Data and pipelines are up to date."
NOBODY = 54321  # an id of no user


def test_broken_environment_is_recreated(fresh, tmp_path):
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
    assert "no-python" in moved.run("make", ".venv/.created", "PYTHON=no-python", code=2).stderr

    linked = tmp_path / "environment"
    shutil.move(moved.path / ".venv", linked)
    created.parent.symlink_to(linked)
    (linked / ".created").write_text("of another checkout")
    moved.run("make", ".venv/.created", f"PYTHON={sys.executable}")
    assert (linked / ".created").read_text() == "of another checkout"  # it belongs to that


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


def test_it_refuses_to_disturb_a_training_run(finished):
    lend_environment(finished)
    message = "error: another training run is active in this checkout; wait until it ends"
    message += " (data/training.lock)"
    with FileLock(finished.path / "data/training.lock"):
        for process in [finished.start("make", target) for target in ("repro", "seconds")]:
            _, err = process.communicate()
            assert (process.returncode, err.splitlines()[0]) == (2, message)
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


def test_a_user_without_a_name(finished):
    """In a user namespace, as in a container."""
    switch = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
    if not shutil.which("unshare") or subprocess.run([*switch, "true"]).returncode:
        pytest.skip("without user namespaces, which some Linux systems do not allow")
    lend_environment(finished)
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        finished.environment.pop(name, None)
    assert UP_TO_DATE in finished.run(*switch, "make", "repro").stdout


def test_a_checkout_of_another_user(finished):
    if os.geteuid() != 0:
        pytest.skip("without root's right to change the owner of a file")
    lend_environment(finished)
    for path in (finished.path, finished.path / ".git"):
        os.chown(path, NOBODY, NOBODY)
    finished.environment["HOME"] = str(finished.path)  # a git configuration without exceptions
    err = finished.run("make", "seconds", code=2).stderr
    assert err.splitlines()[0] == (
        "error: experiments need a git clone: another user owns this checkout; run"
        f" `git config --global --add safe.directory '{finished.path}'`"
    )


def test_another_python_than_that_of_the_environment(fresh):
    err = fresh.run(sys.executable, "-S", "-m", "pipeline.prepare", code=1).stderr
    assert err.startswith(f"error: {sys.executable} does not have dvc, filelock, ")
    assert err.endswith(
        "activate the environment of this checkout with `source .venv/bin/activate`\n"
    )
    assert err.count("\n") == 1
