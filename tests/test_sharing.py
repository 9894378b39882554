"""Sharing data and weights through remotes, and comparing many runs: each with the real thing."""

import getpass
import hashlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import servers
from conftest import Checkout, commands, mlflow_runs

SHARING = commands("sharing.md", "Share weights and corpora")


def script(checkout, *blocks, **placeholders):
    """Run blocks of commands from docs/, with placeholders replaced by real values."""
    text = "\n".join(blocks)
    for placeholder, value in placeholders.items():
        text = text.replace(placeholder, str(value))
    return checkout.run("bash", "-euc", text)


def clone(hub, path, environment):
    subprocess.run(["git", "clone", "-q", hub, path], check=True)
    colleague = Checkout(path)
    colleague.environment |= environment
    return colleague


@pytest.fixture
def published(finished, tmp_path):
    """A finished checkout, with a git repository `hub` to push to, and a home of its own."""
    hub, home = tmp_path / "hub.git", tmp_path / "home"
    home.mkdir(exist_ok=True)
    identity = {"NAME": "Test", "EMAIL": "test@example.org"}
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in identity.items()
    }
    finished.environment |= who | {"HOME": str(home)}
    finished.run("git", "init", "-q", "--bare", hub)
    finished.run("git", "remote", "add", "origin", hub)
    finished.run("git", "add", "-A")
    finished.run("git", "commit", "-qm", "A small model, trained")
    finished.run("git", "push", "-qu", "origin", "HEAD")
    return finished, hub


@pytest.fixture(params=["folder", "ssh", "s3"])
def remote(request, tmp_path):
    """A kind of remote with its server: its block in docs/sharing.md, the placeholders in it, and
    the environment variables.
    """
    block, place = SHARING[["folder", "ssh", "s3"].index(request.param)], tmp_path / "remote"
    if request.param == "folder":
        yield block, {"/srv/baregpt": place}, {}
    elif request.param == "ssh":
        (tmp_path / "server").mkdir()
        with servers.ssh(tmp_path / "server", tmp_path / "home") as port:
            yield (
                block,
                {"me@storage:22": f"{getpass.getuser()}@127.0.0.1:{port}", "/srv/baregpt": place},
                {},
            )
    else:
        with servers.s3(tmp_path) as address:
            login = {"AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": "secret"}
            values = {f"{name}=...": f"{name}={value}" for name, value in login.items()}
            yield block, {"https://storage.example.org": address} | values, login


def same(there, here):
    return there.read_bytes() == here.read_bytes()


def test_what_one_pushes_another_pulls(remote, published, tmp_path):
    """By the commands of docs/sharing.md, through each kind of remote."""
    checkout, hub = published
    add, placeholders, login = remote
    commit_and_push, pull, tag, get = SHARING[3:]
    script(checkout, add, commit_and_push, **placeholders)
    home = {"HOME": checkout.environment["HOME"], **login}

    colleague = clone(hub, tmp_path / "colleague", home)
    (shown,) = json.loads(colleague.run("dvc", "exp", "show", "--json").stdout)[:1]
    loss = json.loads((checkout.path / "data/metrics.json").read_text())["validation_loss"]
    metrics = shown["data"]["metrics"]["data/metrics.json"]["data"]
    assert metrics["validation_loss"] == loss
    assert "Data and pipelines are up to date." in script(colleague, pull).stdout
    for name in ("weights.pkl", "text.txt", "samples.txt", "explore.html"):
        assert same(colleague.path / "data" / name, checkout.path / "data" / name)

    script(checkout, tag)
    elsewhere = Checkout(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    elsewhere.environment |= home
    script(elsewhere, get, **{"<URL of this repository>": hub})
    for name in ("weights.pkl", "text.txt", "samples.txt"):
        assert same(elsewhere.path / name, checkout.path / "data" / name)


def test_rejected_ssh_key_is_reported_and_nothing_is_pushed(published, tmp_path):
    checkout, _ = published
    with servers.ssh(tmp_path, tmp_path / "home") as port:
        servers.new_key(tmp_path / "home/.ssh/id_ed25519")
        checkout.run(
            "dvc", "remote", "add", "--default", "team", f"ssh://127.0.0.1:{port}{tmp_path}/remote"
        )
        assert "Permission denied for user" in checkout.run("dvc", "push", code=255).stderr
    assert not (tmp_path / "remote").exists()


def test_missing_remote_is_reported_and_no_data_is_lost(published, tmp_path):
    checkout, hub = published
    script(checkout, SHARING[0], SHARING[3], **{"/srv/baregpt": tmp_path / "remote"})
    shutil.rmtree(tmp_path / "remote")
    colleague = clone(hub, tmp_path / "colleague", {})
    assert "ERROR: failed to pull" in colleague.run("dvc", "pull", code=1).stderr
    checkout.run("dvc", "push")  # everything is in the cache here: the remote can be recreated
    colleague.run("dvc", "pull")


def test_a_sweep_of_queued_experiments_lands_side_by_side(finished):
    """Two run at once in copies of the checkout, with a relative store: neither may lose or mix
    anything. DVC already has the results of the second value, so its run stays outside the sweep.
    """
    smaller = {"=500": "=20", "--jobs 1": "--jobs 2"}
    finished.environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"  # of this checkout
    queue, start, *compare = commands("experiments.md", "Experiments")[1].splitlines()
    assert script(finished, queue, **smaller).stdout.count("Queued experiment 'rates-") == 3
    script(finished, start, **smaller)
    while re.search(
        "Queued|Running", status := finished.run("dvc", "queue", "status").stdout.split("Worker")[0]
    ):
        time.sleep(3)  # each of these processes takes time from the experiments
    assert status.count("Success") == 3, status

    client, runs = mlflow_runs(finished)
    assert len(runs) == 4
    (parent,) = [run for run in runs if "sweep.parent" in run.data.tags]
    swept = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.data.tags["mlflow.runName"].startswith("rates, from ")
    rates = {
        run.data.tags["dvc.experiment"]: run.data.params["train.learning_rate"] for run in swept
    }
    assert rates == {"rates-1": "0.002", "rates-3": "0.01"}
    best = min(swept, key=lambda run: run.data.metrics["result/validation_loss"])
    loss, rate = (
        best.data.metrics["result/validation_loss"],
        best.data.params["train.learning_rate"],
    )
    assert parent.data.metrics == {"result/validation_loss": loss}
    assert parent.data.tags["best.train.learning_rate"] == rate
    assert parent.data.tags["best.run"] == best.info.run_name
    assert best.info.run_name == f"plays, 2×32, 20 steps ({best.data.tags['dvc.experiment']})"
    note = parent.data.tags["mlflow.note.content"]
    assert note.endswith(f"validation loss {loss:.4f} with train.learning_rate {rate}.")
    texts = set()
    for run in swept:
        assert run.info.status == "FINISHED"
        place = finished.path / "mlruns" / run.info.run_id / "artifacts"
        assert run.info.artifact_uri == place.as_uri()
        changed = f"train.learning_rate {run.data.params['train.learning_rate']} (committed: 0.005)"
        assert run.data.tags["params.uncommitted"] == changed
        assert (
            f"params.yaml differs from the committed version: {changed}."
            in (run.data.tags["mlflow.note.content"])
        )
        assert len(client.get_metric_history(run.info.run_id, "loss/train")) == 20
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"weights.pkl", "samples.txt", "attention.png", "explore.html", "loss.png"} <= names
        texts.add(Path(client.download_artifacts(run.info.run_id, "samples.txt")).read_text())
        weights = Path(client.download_artifacts(run.info.run_id, "weights.pkl"))
        assert run.data.tags["weights.md5"] == hashlib.md5(weights.read_bytes()).hexdigest()
    assert len(texts) == 2

    table = json.loads(finished.run("dvc", "exp", "show", "--json").stdout)
    shown = {e["name"] for base in table for e in base["experiments"] or []}
    assert {"rates-1", "rates-2", "rates-3"} <= shown
    script(finished, *compare, **smaller | {"apply rates-2": "apply rates-1"})
    assert "0.002" in (finished.path / "params.yaml").read_text()
