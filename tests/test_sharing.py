"""Sharing data and weights through remotes, and comparing many runs: each with the real thing."""

import hashlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Checkout, mlflow_runs

from baregpt import load_weights

GIT = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.org")


def clone(checkout, path):
    subprocess.run(["git", "clone", "-q", checkout.path, path], check=True)
    return Checkout(path)


@pytest.fixture
def shared(finished, tmp_path):
    """A finished checkout whose results are committed and pushed to a remote, a folder, and that remote."""
    remote = tmp_path / "remote"
    finished.run("dvc", "remote", "add", "--default", "team", str(remote))
    finished.run("git", "add", "-A")
    finished.run(*GIT, "commit", "-qm", "Results, and where they are")
    finished.run("dvc", "push")
    return finished, remote


def test_a_colleague_pulls_and_repro_does_nothing(shared, tmp_path):
    checkout, _ = shared
    colleague = clone(checkout, tmp_path / "colleague")
    colleague.run("dvc", "pull")
    assert "Data and pipelines are up to date." in colleague.run("dvc", "repro").stdout
    for name in ("weights.pkl", "text.txt", "samples.txt", "attention.html"):
        assert (colleague.path / "data" / name).read_bytes() == (checkout.path / "data" / name).read_bytes()


def test_weights_and_corpus_come_into_another_repository(shared, tmp_path):
    checkout, _ = shared
    for name in ("weights", "corpus"):
        checkout.run(*GIT, "tag", "-a", f"{name}@v1.0.0", "-m", "The first that we share")
    elsewhere = Checkout(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    elsewhere.run("dvc", "get", str(checkout.path), "data/weights.pkl", "--out", "theirs.pkl")
    elsewhere.run("dvc", "artifacts", "get", str(checkout.path), "corpus", "--out", "theirs.txt")
    elsewhere.run("dvc", "artifacts", "get", str(checkout.path), "weights", "--out", "again.pkl")
    assert load_weights(elsewhere.path / "theirs.pkl")[0].n_parameters
    data = checkout.path / "data"
    assert (elsewhere.path / "again.pkl").read_bytes() == (data / "weights.pkl").read_bytes()
    assert (elsewhere.path / "theirs.txt").read_bytes() == (data / "text.txt").read_bytes()


def test_a_remote_that_is_gone_is_said_and_loses_nothing(shared, tmp_path):
    checkout, remote = shared
    shutil.rmtree(remote)
    colleague = clone(checkout, tmp_path / "colleague")
    assert "ERROR: failed to pull" in colleague.run("dvc", "pull", code=1).stderr
    checkout.run("dvc", "push")  # everything is in the cache here: the remote can be made anew
    colleague.run("dvc", "pull")


def test_a_sweep_of_queued_experiments_lands_side_by_side(finished):
    """Two run at once in copies of the checkout: neither may lose or mix anything."""
    sweep = ("dvc", "exp", "run", "--queue", "--name", "rates", "-S", "train.learning_rate=0.002,0.008")
    assert finished.run(*sweep).stdout.count("Queued experiment 'rates-") == 2
    finished.run("dvc", "queue", "start", "--jobs", "2")
    while re.search("Queued|Running", status := finished.run("dvc", "queue", "status").stdout.split("Worker")[0]):
        time.sleep(1)
    assert status.count("Success") == 2, status

    client, runs = mlflow_runs(finished)
    (parent,) = [run for run in runs if "sweep.parent" in run.data.tags]
    swept = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.data.tags["mlflow.runName"].startswith("rates, from ")
    assert {run.info.run_name: run.data.params["train.learning_rate"] for run in swept} == {
        "rates-1": "0.002",
        "rates-2": "0.008",
    }
    texts = set()
    for run in swept:
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 20
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"weights.pkl", "samples.txt", "attention.png", "attention.html", "loss.png"} <= names
        texts.add(Path(client.download_artifacts(run.info.run_id, "samples.txt")).read_text())
        weights = Path(client.download_artifacts(run.info.run_id, "weights.pkl"))
        assert run.data.tags["weights.md5"] == hashlib.md5(weights.read_bytes()).hexdigest()
    assert len(texts) == 2

    table = json.loads(finished.run("dvc", "exp", "show", "--json").stdout)
    shown = {e["name"] for base in table for e in base["experiments"] or []}
    assert {"rates-1", "rates-2"} <= shown
    finished.run("dvc", "plots", "diff", "rates-1", "rates-2")
    finished.run("dvc", "exp", "apply", "rates-2")
    assert "0.008" in (finished.path / "params.yaml").read_text()


def test_a_temporary_experiment_lands_in_the_checkouts_own_store(fresh):
    fresh.run("dvc", "exp", "run", "--temp", "--name", "apart", "-S", "train.seed=5")
    _, (run,) = mlflow_runs(fresh)
    assert run.data.params["train.seed"] == "5"
    assert run.info.run_name == "apart"
    assert run.info.artifact_uri.startswith(f"file://{fresh.path}/mlruns")
