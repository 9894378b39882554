"""A training run that is killed and resumed ends bitwise identical to an uninterrupted one.

`make torture` runs these tests with KILLS=60.
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
from conftest import (
    Checkout,
    delivered_runs,
    made_once,
    mlflow_runs,
    processes,
    read_until,
    samples_by_step,
)
from filelock import FileLock

from pipeline.common.process import end_with_dvc

KILLS = int(os.environ.get("KILLS", "3"))
RESULTS = ["weights.pkl", "train_loss.csv", "validation_loss.csv", "loss.png", "metrics.json"]
RESULTS += ["snapshots.json"]
LONG = {"train": {"steps": 180, "evaluation_interval": 30}, "checkpoint": {"interval": 20}}
STEPS = LONG["train"]["steps"]


def kill(process):
    """End a process and its children as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def checkpoint_of(checkout):
    """The newest checkpoint; None if there is none."""
    found = checkout.path.glob("data/checkpoints/*.npz")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def results(checkout):
    return {name: (checkout.path / "data" / name).read_bytes() for name in RESULTS}


def assert_whole(client, run, steps):
    """A run that has each step once, and everything else that a training run logs."""
    assert run.info.status == "FINISHED"
    for name in ("loss/train", "optimizer/learning_rate", "optimizer/gradient_norm"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == list(
            range(1, steps + 1)
        ), name
    assert len(client.get_metric_history(run.info.run_id, "result/validation_loss")) == 1
    assert {"weights.pkl", "vocab.json", "loss.png"} <= {
        f.path for f in client.list_artifacts(run.info.run_id)
    }


@pytest.fixture(scope="session")
def uninterrupted(encoded_checkout, tmp_path_factory):
    """A checkout after one uninterrupted training run, whose time is in `seconds.txt`. Not to be
    changed.
    """

    def make(checkout):
        shutil.copytree(encoded_checkout.path, checkout.path)
        checkout.set_params(**LONG)
        begun = time.monotonic()
        checkout.stage("train")
        (checkout.path / "seconds.txt").write_text(str(time.monotonic() - begun))

    return made_once(tmp_path_factory, "uninterrupted", make)


@pytest.fixture
def long(encoded):
    """A copy of the small checkout after `prepare` and `vocab`, with as much to train as
    `uninterrupted`.
    """
    encoded.set_params(**LONG)
    return encoded


def test_killed_at_random_moments(long, uninterrupted):
    """The results are always the same, and previous results stay intact until then."""
    rng, finished, kills, unsure = np.random.default_rng(), 0, 0, 0
    seconds = float((uninterrupted.path / "seconds.txt").read_text())
    (long.path / "mlflow.db").unlink()  # may be killed while MLflow makes its store, too
    metrics = long.path / "data/metrics.json"
    while kills < KILLS:
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = long.start("python", "-m", "pipeline.train", start_new_session=True)
        try:
            process.wait(rng.uniform(0, 1.2 * seconds))
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            written = metrics.exists() and metrics.stat().st_mtime_ns != before
            unsure += written and not checkpoint_of(long)  # it had finished, and was about to end
        else:
            assert process.returncode == 0, process.communicate()
            process.communicate()
            finished += 1
        for name in RESULTS:  # nothing, or all of it
            path, good = (checkout.path / "data" / name for checkout in (long, uninterrupted))
            assert not path.exists() or path.read_bytes() == good.read_bytes()
    long.stage("train")
    assert results(long) == results(uninterrupted)
    client, runs = mlflow_runs(long)
    assert len(runs) == finished + unsure + 1
    for run in runs:
        assert_whole(client, run, STEPS)
    left = {path.name for path in (long.path / "data").iterdir()} - {
        p.name for p in uninterrupted.path.glob("data/*")
    }
    assert not left
    print(f"{kills} kills, {finished} runs that ended before their kill")


@pytest.mark.parametrize("how", ["interrupted", "no space"])
def test_it_resumes_from_the_last_checkpoint(long, uninterrupted, how):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    read_until(process, "step 120:")
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert delivered_runs(long)[0].info.status == "KILLED"
    else:
        kill(process)
    before = checkpoint_of(long).read_bytes()
    if how == "no space":
        # a limit on the size of files says no where a full disk would, without filling one
        command = "trap '' XFSZ; ulimit -f 100; python -m pipeline.train"
        long.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
        err = long.run("bash", "-c", command, code=1).stderr
        name = checkpoint_of(long).relative_to(long.path)
        assert f"\nerror: cannot write {name}: File too large\n" in "\n" + err
        assert checkpoint_of(long).read_bytes() == before
        del long.environment["MLFLOW_TRACKING_URI"]
    long.set_params(checkpoint={"interval": 7})  # which changes no result
    out = long.stage("train").stdout
    assert "resuming from data/checkpoints/" in out
    assert "\nstep 30:" not in out
    assert results(long) == results(uninterrupted)
    client, (run,) = mlflow_runs(long)
    assert_whole(client, run, STEPS)
    other_client, (other,) = mlflow_runs(uninterrupted)
    assert samples_by_step(client, run) == samples_by_step(other_client, other)
    assert not checkpoint_of(long)


def test_dvc_repro_resumes_too_and_keeps_the_previous_results(finished, uninterrupted):
    previous = results(finished)
    finished.run("git", "add", "-A")
    finished.run("git", "commit", "-qm", "Trained")
    finished.set_params(**LONG)
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    read_until(process, "step 60:")
    os.killpg(process.pid, signal.SIGSTOP)
    for curve, interval in (("train_loss", 1), ("validation_loss", 30)):  # live, and whole
        lines = (finished.path / f"data/{curve}.csv").read_text().splitlines()
        steps = [int(line.split(",")[0]) for line in lines[1:]]
        assert steps == [*range(interval, steps[-1] + 1, interval)]
        assert steps[-1] in (30, 60)
    assert "train_loss.csv" in finished.run("dvc", "plots", "show", "--json").stdout
    os.killpg(process.pid, signal.SIGCONT)
    read_until(process, "step 120:")
    kill(process)
    finished.run("dvc", "checkout", "--force")
    finished.run("git", "checkout", "data/metrics.json")
    assert results(finished) == previous
    assert "resuming from data/checkpoints/" in finished.run("dvc", "repro", "train").stdout
    assert results(finished) == results(uninterrupted)
    client, runs = mlflow_runs(finished)
    assert len(runs) == 2
    assert_whole(client, runs[0], STEPS)


def test_an_experiment_in_a_temporary_copy_resumes(finished, uninterrupted):
    finished.set_params(**LONG)
    command = ("dvc", "exp", "run", "--temp", "--name", "long")
    process = finished.start(*command, start_new_session=True)
    read_until(process, "step 60:")
    kill(process)
    assert "resuming from " in finished.run(*command).stdout
    client, runs = mlflow_runs(finished)
    assert len(runs) == 2
    assert_whole(client, runs[0], STEPS)
    finished.run("dvc", "exp", "apply", "long")
    assert results(finished) == results(uninterrupted)
    assert not checkpoint_of(finished)


def test_a_training_run_does_not_resume_one_that_waits_for_its_delivery(encoded, tmp_path):
    """The same training run in a copy, as in a sweep over `sample.*`: each has its own run."""
    copy = Checkout(shutil.copytree(encoded.path, tmp_path / "copy"))
    copy.environment["DVC_ROOT"] = str(encoded.path)
    file = copy.path / "pipeline/tracking/store.py"
    file.write_text(file.read_text().replace("timeout=60)", "timeout=0.1)"))
    outbox = encoded.path / "data/undelivered"
    outbox.mkdir()
    with FileLock(outbox / "lock"):  # so that nothing is delivered
        process = encoded.start("python", "-m", "pipeline.train")
        status = ""
        while status != "FINISHED":
            with contextlib.suppress(FileNotFoundError):  # a later one has replaced it
                for path in outbox.glob("*/record.json"):
                    status = json.loads(path.read_text())["status"]
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        assert "resuming" not in copy.stage("train").stdout
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0
    assert [run.info.status for run in mlflow_runs(encoded)[1]] == ["FINISHED", "FINISHED"]


def test_ancestors_of_other_users_do_not_end_a_stage(monkeypatch):
    """On macOS, their command lines cannot be read."""

    def denied(process):
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cmdline", denied)
    end_with_dvc()


def test_training_ends_with_the_dvc_that_started_it(finished):
    finished.set_params(**LONG)
    finished.set_params(train={"steps": 1_000_000})
    process = finished.start("dvc", "repro", "train")
    read_until(process, "step 30:")
    process.send_signal(signal.SIGTERM)  # to DVC alone, which does not pass it on
    process.communicate()
    while processes(finished.path):
        time.sleep(0.1)
    assert not (finished.path / "data/weights.pkl").exists()
    assert delivered_runs(finished)[0].info.status == "KILLED"
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    read_until(process, "resuming from data/checkpoints/")
    kill(process)


def test_a_checkpoint_of_another_training_run_is_ignored_but_kept(long, uninterrupted):
    """After an interrupted run: a different one, then the first resumes."""
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    read_until(process, "step 60:")
    kill(process)
    interrupted = checkpoint_of(long)
    long.set_params(train={"learning_rate": 0.004, "steps": 20})
    out = long.stage("train").stdout
    assert "resuming" not in out
    name = interrupted.relative_to(long.path)
    assert f"ignored checkpoint {name} (step " in out
    assert ": train.learning_rate (0.005, now 0.004), train.steps (180, now 20)\n" in out
    steps = [int(row["step"]) for row in csv.DictReader((long.path / "data/train_loss.csv").open())]
    assert steps == list(range(1, 21))
    client, runs = mlflow_runs(long)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    assert_whole(client, runs[0], 20)

    with (long.path / "baregpt/sampler.py").open("a") as file:
        file.write("# of no consequence for training\n")
    long.set_params(**LONG, sample={"temperature": 0.1})
    long.set_params(train={"learning_rate": 0.005})
    assert f"resuming from {name} after step " in long.stage("train").stdout
    assert results(long) == results(uninterrupted)
    client, runs = mlflow_runs(long)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert_whole(client, runs[1], STEPS)


def test_the_newest_two_checkpoints_are_kept(encoded):
    """Whatever the clock says: here the older ones seem to be from the future."""
    encoded.set_params(train={"steps": 100_000}, checkpoint={"interval": 100_000})
    made = []
    for seed in (1, 2, 3):
        encoded.set_params(train={"seed": seed})
        process = encoded.start("python", "-m", "pipeline.train", start_new_session=True)
        read_until(process, "step 10:")
        kill(process)
        made += {*encoded.path.glob("data/checkpoints/*")} - {*made}
        os.utime(made[-1], (2e9 - seed, 2e9 - seed))
    assert len(made) == 3
    assert {*encoded.path.glob("data/checkpoints/*")} == {*made[1:]}


@pytest.mark.parametrize(
    "name", ["baregpt/layers.py", "pipeline/train.py", "data/train.npy", "data/vocab.json"]
)
def test_the_fingerprint_depends_on_code_and_corpus(encoded, name):
    program = "from pipeline.common.inputs import Inputs; "
    program += "from pipeline.training.checkpoint import fingerprint; "
    program += "print(fingerprint(Inputs('train')))"
    ask = ("python", "-c", program)
    before = encoded.run(*ask).stdout
    assert encoded.run(*ask).stdout == before
    with (encoded.path / name).open("ab") as file:
        file.write(b"\n# a change\n")
    assert encoded.run(*ask).stdout not in ("", before)


def rewrite_state(checkpoint, change):
    """Rewrite a checkpoint as another version of this project might have written it."""
    with np.load(checkpoint) as saved:
        arrays = dict(saved)
    state = json.loads(bytes(arrays.pop("state")))
    change(state)
    with checkpoint.open("wb") as file:
        np.savez(file, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)


def test_a_damaged_checkpoint_is_ignored_and_kept(long, uninterrupted):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    read_until(process, "step 60:")
    kill(process)
    checkpoint = checkpoint_of(long)
    name = str(checkpoint.relative_to(long.path))
    good = checkpoint.read_bytes()
    middle = len(good) // 2
    damaged = good[:middle] + b"damage" + good[middle + 6 :]
    checkpoint.write_bytes(damaged)
    process = long.stage("train")
    assert process.stderr.startswith(f"warning: ignored checkpoint {name}, now renamed to ")
    assert process.stderr.count("\n") == 1
    assert checkpoint.with_suffix(".damaged").read_bytes() == damaged
    assert results(long) == results(uninterrupted)
    ask = "from pipeline.common.inputs import Inputs; from pathlib import Path; "
    ask += "from pipeline.training import checkpoint; "
    ask += "checkpoint.print_difference(Path('{}'), Inputs('train'))"
    checkpoint.write_bytes(b"not a checkpoint")
    out = long.run("python", "-c", ask.format(name)).stdout
    assert out.startswith(f"ignored checkpoint {name}: it is damaged or from another version")
    checkpoint.write_bytes(good)
    rewrite_state(checkpoint, lambda state: state["progress"].update(unheard_of=1))
    out = long.run("python", "-c", ask.format(name)).stdout
    assert out.startswith(f"ignored checkpoint {name}: it is damaged or from another version")
    rewrite_state(checkpoint, lambda state: state["progress"].pop("unheard_of"))
    rewrite_state(checkpoint, lambda state: state["record"].update(unheard_of=1))
    other = checkpoint.with_name(f"{checkpoint.name.partition('-')[0]}-0.npz")
    other.write_bytes(b"not a checkpoint")  # comes first
    process = long.stage("train")
    assert f"resuming from {name}" in process.stdout
    assert "from the beginning" not in process.stderr
    assert other.with_suffix(".damaged").exists()
    assert results(long) == results(uninterrupted)


def test_a_second_training_run_at_the_same_time_is_refused(long, uninterrupted):
    process = long.start("python", "-m", "pipeline.train", start_new_session=True)
    read_until(process, "step 30:")
    process.send_signal(signal.SIGSTOP)
    err = long.stage("train", code=1).stderr
    process.send_signal(signal.SIGCONT)
    message = (
        "another training run is active in this checkout; wait until it ends (data/training.lock)"
    )
    assert err == f"error: {message}\n"
    process.communicate()
    assert process.returncode == 0
    assert results(long) == results(uninterrupted)


def test_a_training_run_that_diverges_keeps_its_last_checkpoint(long):
    long.set_params(train={"learning_rate": 1e30, "warmup_steps": 0})
    err = long.stage("train", code=1).stderr
    assert err.startswith(
        "error: training diverged at step 2 (loss nan, gradient norm nan): lower the learning rate"
    )
    assert checkpoint_of(long)
    assert not (long.path / "data/weights.pkl").exists()
    long.set_params(train={"learning_rate": 0.005, "warmup_steps": 5})
    assert "resuming" not in long.stage("train").stdout
    _, runs = mlflow_runs(long)
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED"]
