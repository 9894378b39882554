"""A training that is killed and run again ends as if nothing had happened.

`make torture` runs these with KILLS=60; the suite with a handful.
"""

import csv
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import Checkout, mlflow_runs

KILLS = int(os.environ.get("KILLS", "3"))
RESULTS = ["weights.pkl", "train_loss.csv", "validation_loss.csv", "loss.png", "metrics.json"]
LONG = {"train": {"steps": 180, "evaluation_interval": 30}, "checkpoint": {"interval": 20}}
STEPS = LONG["train"]["steps"]


def kill(process):
    """End a process and its children as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def until(process, line):
    """Read what a process prints up to this line."""
    while line not in (printed := process.stdout.readline()):
        assert printed or process.poll() is None, process.stderr.read()


def results(checkout):
    return {name: (checkout.path / "data" / name).read_bytes() for name in RESULTS}


def assert_whole(client, run, steps):
    """A run that has each step once, and everything else that a training logs."""
    assert run.info.status == "FINISHED"
    for name in ("train_loss", "learning_rate", "gradient_norm", "characters_per_second"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == list(range(1, steps + 1)), name
    for name in ("final_validation_loss", "parameters.total"):
        assert len(client.get_metric_history(run.info.run_id, name)) == 1
    assert {"weights.pkl", "vocab.json", "loss.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


@pytest.fixture(scope="session")
def undisturbed(encoded_checkout, tmp_path_factory):
    """A checkout after one training in one go, with how long that took as `seconds`. Not to be changed."""
    checkout = Checkout(shutil.copytree(encoded_checkout.path, tmp_path_factory.mktemp("undisturbed") / "checkout"))
    checkout.set_params(**LONG)
    begun = time.monotonic()
    checkout.stage("train")
    checkout.seconds = time.monotonic() - begun
    return checkout


@pytest.fixture
def long(encoded):
    """A copy of the small checkout after `prepare` and `vocab`, with as much to train as `undisturbed`."""
    encoded.set_params(**LONG)
    return encoded


def test_killed_at_random_moments(long, undisturbed):
    """Wherever it is killed, what it ends with is the same; and what it made before is there, whole, until then."""
    random, finished, kills, unsure = np.random.default_rng(), 0, 0, 0
    (long.path / "mlflow.db").unlink()  # may be killed while MLflow makes its store, too
    checkpoint, metrics = long.path / "data/checkpoint.npz", long.path / "data/metrics.json"
    while kills < KILLS:
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = long.start("python", "-m", "pipeline.train", start_new_session=True)
        try:
            process.wait(random.uniform(0, 1.2 * undisturbed.seconds))
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            written = metrics.exists() and metrics.stat().st_mtime_ns != before
            unsure += written and not checkpoint.exists()  # it had finished, and was about to end
        else:
            assert process.returncode == 0, process.communicate()
            process.communicate()
            finished += 1
        for name in RESULTS:  # nothing, or all of it
            path = long.path / "data" / name
            assert not path.exists() or path.read_bytes() == (undisturbed.path / "data" / name).read_bytes()
    long.stage("train")
    assert results(long) == results(undisturbed)
    client, runs = mlflow_runs(long)
    assert len(runs) == finished + unsure + 1
    for run in runs:
        assert_whole(client, run, STEPS)
    left = {path.name for path in (long.path / "data").iterdir()} - {p.name for p in undisturbed.path.glob("data/*")}
    assert not left
    print(f"{kills} kills, {finished} trainings that ended before theirs")


@pytest.mark.parametrize("how", ["interrupted", "no space"])
def test_it_goes_on_from_the_last_checkpoint(long, undisturbed, how):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    until(process, "step 120:")
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert mlflow_runs(long)[1][0].info.status == "KILLED"
    else:
        kill(process)
    before = (long.path / "data/checkpoint.npz").read_bytes()
    if how == "no space":  # a limit on the size of files says no where a full disk would, without filling one
        command = "trap '' XFSZ; ulimit -f 100; python -m pipeline.train"
        long.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
        err = long.run("bash", "-c", command, code=1).stderr
        assert "\nerror: cannot write data/checkpoint.npz: File too large\n" in "\n" + err
        assert (long.path / "data/checkpoint.npz").read_bytes() == before
        del long.environment["MLFLOW_TRACKING_URI"]
    long.set_params(checkpoint={"interval": 7})  # which changes no result
    out = long.stage("train").stdout
    assert "going on from data/checkpoint.npz, after step " in out
    assert "\nstep 30:" not in out
    assert results(long) == results(undisturbed)
    client, (run,) = mlflow_runs(long)
    assert_whole(client, run, STEPS)
    assert not (long.path / "data/checkpoint.npz").exists()


def test_dvc_repro_goes_on_too_and_the_former_results_are_kept(finished, undisturbed):
    former = results(finished)
    finished.set_params(**LONG)
    process = finished.start("dvc", "repro", start_new_session=True)
    until(process, "step 120:")
    kill(process)
    finished.run("dvc", "checkout", "--force")
    assert results(finished) == former
    assert "going on from data/checkpoint.npz" in finished.run("dvc", "repro").stdout
    assert results(finished) == results(undisturbed)
    client, runs = mlflow_runs(finished)
    assert len(runs) == 2
    assert_whole(client, runs[0], STEPS)


def test_a_checkpoint_of_another_training_is_not_used(long):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    until(process, "step 60:")
    kill(process)
    long.set_params(train={"learning_rate": 0.004})
    out = long.stage("train").stdout
    assert "going on" not in out
    steps = [int(row["step"]) for row in csv.DictReader((long.path / "data/train_loss.csv").open())]
    assert steps == list(range(1, STEPS + 1))
    client, runs = mlflow_runs(long)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    assert_whole(client, runs[0], STEPS)


@pytest.mark.parametrize("name", ["baregpt/layers.py", "pipeline/train.py", "data/train.npy", "data/vocab.json"])
def test_another_code_or_corpus_is_another_training(encoded, name):
    program = "from pipeline import checkpoint, stage; "
    program += "print(checkpoint.fingerprint([1], [stage.TRAIN_IDS, stage.VOCAB]))"
    ask = ("python", "-c", program)
    before = encoded.run(*ask).stdout
    assert encoded.run(*ask).stdout == before
    with (encoded.path / name).open("ab") as file:
        file.write(b"\n# a change\n")
    assert encoded.run(*ask).stdout not in ("", before)


def test_a_damaged_checkpoint_is_not_used(long, undisturbed):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    until(process, "step 60:")
    kill(process)
    checkpoint = long.path / "data/checkpoint.npz"
    good = checkpoint.read_bytes()
    middle = len(good) // 2
    checkpoint.write_bytes(good[:middle] + b"damage" + good[middle + 6 :])
    process = long.stage("train")
    assert process.stderr.startswith("warning: data/checkpoint.npz is damaged (")
    assert process.stderr.count("\n") == 1
    assert results(long) == results(undisturbed)
    checkpoint.write_bytes(b"not a checkpoint")
    load = "from pipeline.checkpoint import load_checkpoint; assert load_checkpoint() is None"
    assert long.run("python", "-c", load).stderr.startswith("warning: data/checkpoint.npz is damaged (")


def test_two_trainings_at_once_do_not_mix(long, undisturbed):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    until(process, "step 30:")
    process.send_signal(signal.SIGSTOP)
    err = long.stage("train", code=1).stderr
    process.send_signal(signal.SIGCONT)
    assert err == "error: another training is at work in this checkout: wait for it (data/training.lock)\n"
    process.communicate()
    assert process.returncode == 0
    assert results(long) == results(undisturbed)


def test_a_training_that_diverges_keeps_its_last_checkpoint(long):
    long.set_params(train={"learning_rate": 1e30, "warmup_steps": 0})
    err = long.stage("train", code=1).stderr
    assert err.startswith("error: training diverged at step 2 (loss nan, gradient norm nan, learning rate ")
    assert (long.path / "data/checkpoint.npz").exists()
    assert not (long.path / "data/weights.pkl").exists()
    long.set_params(train={"learning_rate": 0.005, "warmup_steps": 5})
    assert "going on" not in long.stage("train").stdout
    _, runs = mlflow_runs(long)
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED"]
