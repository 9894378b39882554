"""dvc.lock, MLflow and the files on disk record what really happened."""

import json
import os
import shutil
import signal
import subprocess

import pytest
import yaml
from conftest import Checkout, delivered_runs, mlflow_runs, read_until
from servers import fetch, free_port, invoke, running

from baregpt import load_weights

SLOW = {"train": {"steps": 100_000, "evaluation_interval": 10}, "checkpoint": {"interval": 10}}
QUICK = {"train": {"steps": 300, "evaluation_interval": 50}, "checkpoint": {"interval": 25}}


CHANGED = ["baregpt/optimizer.py", "data/train.npy", "params.yaml"]


def pause_after(process, line):
    """Stop a process group when the process has printed a line, to change what it reads."""
    read_until(process, line)
    os.killpg(process.pid, signal.SIGSTOP)


def continue_(process):
    os.killpg(process.pid, signal.SIGCONT)
    return process.communicate(timeout=300)


def change_learning_rate(checkout):
    checkout.set_params(train={"learning_rate": 0.004})


def change_code(checkout):
    with (checkout.path / "baregpt/optimizer.py").open("a") as file:
        file.write("# another optimizer\n")


def change_ids(checkout):
    shutil.copy(checkout.path / "data/validation.npy", checkout.path / "data/train.npy")


def test_outputs_are_discarded_if_inputs_change_while_training(finished):
    """Params, code and data; when all are reverted, the same training run resumes."""
    finished.set_params(**QUICK)
    before = (finished.path / "dvc.lock").read_text()
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    pause_after(process, "step 50:")
    original = {name: (finished.path / name).read_bytes() for name in CHANGED}
    change_learning_rate(finished)
    change_code(finished)
    change_ids(finished)
    _, err = continue_(process)
    assert process.returncode != 0
    said = ", ".join([*CHANGED[:2], "train.learning_rate (0.005, now 0.004)"])
    (warning,) = [line for line in err.splitlines() if line.startswith("warning:")]
    assert warning == (
        f"warning: {said} changed since training began; revert the change before training ends, or"
        " its outputs will be discarded"
    )
    (error,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert error == (
        f"error: {said} changed while stage `train` ran, so its outputs were discarded; rerun, or"
        " revert the change first"
    )
    assert (finished.path / "dvc.lock").read_text() == before
    assert "train" in finished.run("dvc", "status").stdout
    for name in ("weights.pkl", "metrics.json", "train_loss.csv", "loss.png"):
        assert not (finished.path / "data" / name).exists()
    _, runs = mlflow_runs(finished)
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]

    for name, content in original.items():
        (finished.path / name).write_bytes(content)
    out = finished.run("dvc", "repro", "train").stdout
    assert "after step 300" in out
    _, runs = mlflow_runs(finished)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].data.params["train.learning_rate"] == "0.005"
    lock = yaml.safe_load((finished.path / "dvc.lock").read_text())["stages"]["train"]
    assert lock["params"]["params.yaml"]["train"]["learning_rate"] == 0.005
    assert runs[0].data.tags["weights.md5"] in {out["md5"] for out in lock["outs"]}


def test_outputs_are_discarded_if_code_changes_while_the_stage_starts(encoded):
    start = "import pathlib, runpy, pipeline; path = pathlib.Path('baregpt/optimizer.py')\n"
    start += "path.write_text(path.read_text() + '# another')\n"
    start += "runpy.run_module('pipeline.train', run_name='__main__')\n"
    err = encoded.run("python", "-c", start, code=1).stderr
    assert "error: baregpt/optimizer.py changed while stage `train` ran" in err
    assert not (encoded.path / "data/weights.pkl").exists()


def test_the_checkpoint_is_kept_if_params_change_when_training_has_ended(encoded):
    encoded.set_params(**QUICK)
    process = encoded.start("python", "-m", "pipeline.train", start_new_session=True)
    pause_after(process, "best step")
    change_learning_rate(encoded)
    _, err = continue_(process)
    assert process.returncode == 1
    assert "changed while stage `train` ran" in err
    assert not (encoded.path / "data/weights.pkl").exists()
    encoded.set_params(train={"learning_rate": 0.005})
    assert "after step 300" in encoded.stage("train").stdout
    assert (encoded.path / "data/weights.pkl").exists()


def test_a_file_that_is_being_written_does_not_end_training(encoded):
    encoded.set_params(**QUICK)
    process = encoded.start("python", "-m", "pipeline.train", start_new_session=True)
    for step, name in ((50, "params.yaml"), (150, "dvc.yaml")):
        pause_after(process, f"step {step}:")
        before = (encoded.path / name).read_text()
        (encoded.path / name).write_text("")
        os.killpg(process.pid, signal.SIGCONT)
        read_until(process, f"step {step + 50}:")
        (encoded.path / name).write_text(before)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert err.count("changed since training began") == 2


def test_params_that_training_does_not_read_may_change_meanwhile(finished):
    finished.set_params(**QUICK)
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    pause_after(process, "step 50:")
    finished.set_params(sample={"temperature": 0.5}, checkpoint={"interval": 7})
    _, err = continue_(process)
    assert (process.returncode, "warning" in err) == (0, False)


def test_a_temporary_copy_uses_the_store_and_the_corpus_of_this_checkout(finished):
    """A relative store, and a corpus that git ignores, in the two ways that docs/experiments.md
    gives.
    """
    corpus = finished.path / "data/shakespeare.txt"
    corpus.write_text((finished.path / "data/plays.txt").read_text()[::-1])
    finished.environment["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    temp = ("dvc", "exp", "run", "--temp")
    copied = ("--copy-paths", "data/shakespeare.txt", "-S", "corpus.path=data/shakespeare.txt")
    finished.run(*temp, "--name", "gpt-2", *copied, "-S", "train.seed=7", "train")
    finished.run(*temp, "-S", f"corpus.path={corpus}", "train")
    (finished.path / "other.db").rename(finished.path / "mlflow.db")
    _, runs = mlflow_runs(finished)
    used = [run.data.params["corpus.path"] for run in runs]
    assert used == [str(corpus), "data/shakespeare.txt"]
    assert runs[1].data.params["train.seed"] == "7"
    assert "mlflow.parentRunId" not in runs[1].data.tags  # its name ends like those of a sweep
    for run in runs:
        place = finished.path / "mlruns" / run.info.run_id / "artifacts"
        assert run.info.artifact_uri == place.as_uri()
        assert artifact(finished, run, "weights.pkl").exists()


def artifact(checkout, run, name):
    """Where an artifact of a run lies in the checkout's own store."""
    return checkout.path / "mlruns" / run.info.run_id / "artifacts" / name


@pytest.mark.parametrize("section", ["sample", "plot_attention"])
def test_a_prompt_outside_the_vocabulary_is_refused_before_training(encoded, section):
    encoded.set_params(**SLOW)
    encoded.set_params(**{section: {"prompt": "naïve"}})
    process = encoded.stage("train", code=1)
    where = f"error: params.yaml: {section}.prompt: character 'ï' at position 2 is not in"
    assert process.stderr.startswith(where)
    assert "step" not in process.stdout


def served(checkout, log):
    """Return the answer of the registered model, served by MLflow."""
    port = free_port()
    command = ["python", "-m", "mlflow", "models", "serve", "--model-uri", "models:/baregpt/latest"]
    command += ["--env-manager", "local", "--port", str(port)]
    environment = checkout.environment | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    options = {"cwd": checkout.path, "env": environment}
    ping = f"http://127.0.0.1:{port}/ping"
    with running(command, lambda: fetch(ping) is not None, log, **options):
        return invoke(port, {"inputs": {"prompt": ["KING:"]}, "params": {"length": 5}})


def files_under(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_moved_checkout_keeps_its_runs_and_a_copy_has_its_own(finished, tmp_path):
    finished.stage("register")
    mlflow_runs(finished)[0].rename_experiment("1", "mine")
    moved = Checkout(finished.path.rename(tmp_path / "moved to a new place"))
    moved.set_params(train={"seed": 2})
    moved.run("dvc", "repro", "train")
    client, runs = mlflow_runs(moved)
    assert len(runs) == 2
    for run in runs:
        load_weights(artifact(moved, run, "weights.pkl"))
        load_weights(client.download_artifacts(run.info.run_id, "weights.pkl"))
    assert moved.stage("register").stdout.startswith("registered baregpt version 2: ")
    versions = client.search_model_versions("name = 'baregpt'")
    best = min(versions, key=lambda version: float(version.tags["validation_loss"]))
    champion = client.get_model_version_by_alias("baregpt", "champion")
    assert (len(versions), champion.version) == (2, best.version)
    assert "predictions" in served(moved, tmp_path / "serve.log")

    before = files_under(moved.path)
    copy = Checkout(tmp_path / "copy")
    subprocess.run(["cp", "-a", moved.path, copy.path], check=True)
    copy.set_params(train={"seed": 3})
    copy.run("dvc", "repro", "train")
    _, runs = mlflow_runs(copy)
    assert len(runs) == 3
    assert all(run.info.artifact_uri.startswith(copy.path.as_uri()) for run in runs)
    assert copy.stage("register").stdout.startswith("registered baregpt version 3: ")
    assert files_under(moved.path) == before


def test_two_checkouts_with_one_store_keep_their_artifacts(encoded, tmp_path):
    """Beside the store; those that lie elsewhere, in a folder of another checkout, stay there."""
    elsewhere = tmp_path / "other/mlruns"
    client, _ = mlflow_runs(encoded)
    client.create_experiment("baregpt", elsewhere.as_uri())
    other = Checkout(shutil.copytree(encoded.path, tmp_path / "other"))
    other.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{encoded.path}/mlflow.db"
    assert other.stage("train").stderr == ""
    encoded.set_params(train={"seed": 2})
    assert encoded.stage("train").stderr == ""
    client, runs = mlflow_runs(encoded)
    places = [(encoded.path / "mlruns").as_uri(), elsewhere.as_uri()]
    assert [run.info.artifact_uri.partition("/mlruns")[0] + "/mlruns" for run in runs] == places
    for run in runs:
        load_weights(client.download_artifacts(run.info.run_id, "weights.pkl", tmp_path))


def test_records_of_other_versions_are_left_in_the_outbox(encoded):
    records = {
        "0": {"shape": "unheard of"},
        "1": {"key": "training", "tags": {"training": "old"}, "start": "2026-11-22T10:00"},
        "2": {"key": "training", "tags": {"training": "old"}, "metrics": [["loss", 1.0]]},
    }
    files = {}
    for name, record in records.items():
        files[name] = encoded.path / "data/undelivered" / name / "record.json"
        files[name].parent.mkdir(parents=True)
        files[name].write_text(json.dumps(record))
    err = encoded.stage("train").stderr
    warning = "warning: cannot deliver data/undelivered/{}, leaving it unchanged"
    for name, line in zip(records, err.splitlines(), strict=True):
        assert line.startswith(warning.format(name))
        assert files[name].exists()
    assert mlflow_runs(encoded)[1][0].info.status == "FINISHED"


def test_a_training_run_that_is_stopped_has_the_status_killed(encoded):
    encoded.set_params(**SLOW)
    stops = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    for seed, stop in enumerate(stops, 1):
        encoded.set_params(train={"seed": seed})
        process = encoded.start("python", "-m", "pipeline.train")
        read_until(process, "step 20:")
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "interrupted\n"), stop
    runs = {run.data.params["train.seed"]: run.info.status for run in delivered_runs(encoded)}
    assert runs == {"1": "KILLED", "2": "KILLED", "3": "KILLED"}


def test_the_next_command_marks_a_killed_training_run(encoded):
    encoded.set_params(**SLOW)
    process = encoded.start("python", "-m", "pipeline.train")
    read_until(process, "step 20:")
    process.send_signal(signal.SIGSTOP)  # its process is there, but takes no time from others
    assert delivered_runs(encoded)[0].info.status == "RUNNING"
    process.kill()
    process.communicate()
    assert delivered_runs(encoded)[0].info.status == "KILLED"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("without a small file system, which only root may mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_gives_a_one_line_error(encoded, small_disk):
    checkout = Checkout(small_disk / "checkout")
    ignored = shutil.ignore_patterns(".git", "pretrained.pkl", "docs", "benchmarks", "notebooks")
    shutil.copytree(encoded.path, checkout.path, ignore=ignored)
    checkout.set_params(**SLOW)
    process = checkout.start("python", "-m", "pipeline.train")
    read_until(process, "step 20:")
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space"):
        while True:
            os.write(filler, bytes(1 << 12))
    os.close(filler)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    errors = [line for line in err.splitlines() if not line.startswith("warning: MLflow")]
    assert len(errors) == 1, err
    assert errors[0].startswith("error: cannot write data/")
    assert errors[0].endswith(": No space left on device")
    assert err.count("\n") <= 2
    (small_disk / "filler").unlink()
    checkout.set_params(train={"steps": 20})
    assert "ignored checkpoint" in checkout.stage("train").stdout
    later, earlier = [run.info.status for run in delivered_runs(checkout)]
    assert later == "FINISHED"
    assert earlier in ("FAILED", "KILLED")  # FAILED if there was room for a last record


def test_ctrl_c_during_a_delivery_leaves_no_lock_behind(encoded):
    """At moments all through the training run, most of which is delivering."""
    encoded.set_params(**SLOW)
    encoded.set_params(checkpoint={"interval": 1})
    for lines in (1, 2, 3, 4):
        process = encoded.start("python", "-m", "pipeline.train")
        for _ in range(lines):
            read_until(process, "step ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "interrupted\n")
    assert delivered_runs(encoded)[0].info.status == "KILLED"


def test_a_prompt_that_is_a_boolean_in_yaml_1_1_stays_text(finished):
    finished.run("dvc", "exp", "run", "-S", "sample.prompt=No", "sample")
    assert "\nNo" in (finished.path / "data/samples.txt").read_text()


def test_a_store_in_a_folder_of_files_gives_a_one_line_error(encoded):
    encoded.environment["MLFLOW_TRACKING_URI"] = "file:./mlruns"
    encoded.stage("train")
    err = encoded.stage("deliver", code=1).stderr
    assert "`mlflow migrate-filestore`" in err
    assert err.count("\n") == 1


def test_weights_are_sent_once(finished):
    """The weights themselves, and the model in MLflow's own form: not again with each plot."""
    _, (run,) = mlflow_runs(finished)
    path = artifact(finished, run, "weights.pkl")
    made = path.stat().st_mtime_ns
    finished.stage("sample")
    assert path.stat().st_mtime_ns == made
