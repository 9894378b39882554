"""dvc.lock, MLflow and the files on disk record what really happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from conftest import Checkout, delivered_runs, mlflow_runs, read_until
from servers import fetch, free_port, invoke, running

from baregpt import load_weights

SLOW = {"train": {"steps": 100_000, "evaluation_interval": 10}, "checkpoint": {"interval": 10}}
QUICK = {"train": {"steps": 300, "evaluation_interval": 10}, "checkpoint": {"interval": 10}}


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_learning_rate, "train.learning_rate (0.005, now 0.004)"),
        (change_code, "baregpt/optimizer.py"),
        (change_ids, "data/train.npy"),
    ],
)
def test_outputs_are_discarded_if_inputs_change_while_training(finished, change, said):
    finished.set_params(**QUICK)
    before = (finished.path / "dvc.lock").read_text()
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    pause_after(process, "step 20:")
    change(finished)
    _, err = continue_(process)
    assert process.returncode != 0
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


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_a_file_that_is_being_written_does_not_end_training(encoded, name):
    encoded.set_params(**QUICK)
    before = (encoded.path / name).read_text()
    process = encoded.start("python", "-m", "pipeline.train", start_new_session=True)
    pause_after(process, "step 20:")
    (encoded.path / name).write_text("")
    os.killpg(process.pid, signal.SIGCONT)
    read_until(process, "step 40:")
    (encoded.path / name).write_text(before)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "changed since training began" in err


def test_a_training_resumes_when_its_params_are_reverted(finished):
    finished.set_params(**QUICK)
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    pause_after(process, "step 20:")
    change_learning_rate(finished)
    continue_(process)
    finished.set_params(train={"learning_rate": 0.005})
    out = finished.run("dvc", "repro", "train").stdout
    assert "after step 300" in out
    _, runs = mlflow_runs(finished)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].data.params["train.learning_rate"] == "0.005"
    lock = yaml.safe_load((finished.path / "dvc.lock").read_text())["stages"]["train"]
    assert lock["params"]["params.yaml"]["train"]["learning_rate"] == 0.005
    assert runs[0].data.tags["weights.md5"] in {out["md5"] for out in lock["outs"]}


def test_params_that_training_does_not_read_may_change_meanwhile(finished):
    finished.set_params(**QUICK)
    process = finished.start("dvc", "repro", "train", start_new_session=True)
    pause_after(process, "step 20:")
    finished.set_params(sample={"temperature": 0.5}, checkpoint={"interval": 7})
    _, err = continue_(process)
    assert (process.returncode, "warning" in err) == (0, False)


@pytest.mark.parametrize(("how", "name"), [("--temp", "mlflow.db"), ("--queue", "other.db")])
def test_a_relative_store_means_this_checkout(finished, how, name):
    finished.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{name}"
    finished.run("dvc", "exp", "run", how, "--name", "gpt-2", "-S", "train.seed=7")
    if how == "--queue":
        finished.run("dvc", "queue", "start")
        while re.search("Queued|Running", status := queue_status(finished)):
            time.sleep(1)
        assert "Success" in status
    (finished.path / name).rename(finished.path / "mlflow.db")
    _, (run, *_) = mlflow_runs(finished)
    assert run.data.params["train.seed"] == "7"
    assert "mlflow.parentRunId" not in run.data.tags  # its name ends like those of a sweep
    assert (
        run.info.artifact_uri == (finished.path / "mlruns" / run.info.run_id / "artifacts").as_uri()
    )
    assert artifact(finished, run, "weights.pkl").exists()


def queue_status(checkout):
    return checkout.run("dvc", "queue", "status").stdout.split("Worker")[0]


def artifact(checkout, run, name):
    """Where an artifact of a run lies in the checkout's own store."""
    return checkout.path / "mlruns" / run.info.run_id / "artifacts" / name


def test_a_corpus_that_git_ignores_can_be_swept(finished):
    """By the two ways that docs/experiments.md gives."""
    corpus = finished.path / "data/shakespeare.txt"
    corpus.write_text((finished.path / "data/plays.txt").read_text()[::-1])
    temp = ("dvc", "exp", "run", "--temp")
    finished.run(
        *temp, "--copy-paths", "data/shakespeare.txt", "-S", "corpus.path=data/shakespeare.txt"
    )
    finished.run(*temp, "-S", f"corpus.path={corpus}", "-S", "train.seed=7")
    _, runs = mlflow_runs(finished)
    used = [run.data.params["corpus.path"] for run in runs]
    assert used == [str(corpus), "data/shakespeare.txt", "data/plays.txt"]


@pytest.mark.parametrize("text", ["Съешь ещё этих мягких французских булок. " * 60, "abc " * 900])
def test_a_corpus_without_common_characters_needs_no_other_prompts(fresh, text):
    """The default prompts, for Cyrillic, and for a single line."""
    (fresh.path / "data/plays.txt").write_text(text)
    fresh.set_params(plot_attention={"prompt": None})
    fresh.run("dvc", "repro")
    assert text[:12] in (fresh.path / "data/samples.txt").read_text()


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
    moved.run("dvc", "repro")
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
    copy.run("dvc", "repro")
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


@pytest.mark.parametrize(
    "record",
    [
        {"shape": "unheard of"},
        {"key": "training", "tags": {"training": "old"}, "start": "2026-11-22T10:00"},
        {"key": "training", "tags": {"training": "old"}, "metrics": [["loss", 1.0]]},
    ],
)
def test_a_record_of_another_version_is_left_in_the_outbox(encoded, record):
    folder = encoded.path / "data/undelivered/other"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))
    err = encoded.stage("train").stderr
    assert err.startswith("warning: cannot deliver data/undelivered/other, leaving it unchanged")
    assert err.count("\n") == 1
    assert (folder / "record.json").exists()
    assert mlflow_runs(encoded)[1][0].info.status == "FINISHED"


@pytest.mark.parametrize("stop", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_stopped_has_the_status_killed(encoded, stop):
    encoded.set_params(**SLOW)
    process = encoded.start("python", "-m", "pipeline.train")
    read_until(process, "step 20:")
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert delivered_runs(encoded)[0].info.status == "KILLED"


def test_the_next_command_marks_a_killed_training(encoded):
    encoded.set_params(**SLOW)
    process = encoded.start("python", "-m", "pipeline.train")
    read_until(process, "step 20:")
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


def test_a_disk_that_is_full_is_one_line(encoded, small_disk):
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
    checkout.set_params(train={"steps": 300})
    assert "ignored checkpoint" in checkout.stage("train").stdout
    later, former = [run.info.status for run in delivered_runs(checkout)]
    assert later == "FINISHED"
    assert former in ("FAILED", "KILLED")  # the former, if a last record still found room


def test_ctrl_c_during_a_delivery_leaves_no_lock_behind(encoded):
    """At moments all through the training, most of which is delivering."""
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


def test_a_terminal_that_lacks_characters(encoded):
    encoded.path.joinpath("data/plays.txt").write_text("🎭 all the world is a stage 🎭\n" * 100)
    encoded.set_params(sample={"prompt": None}, plot_attention={"prompt": None})
    encoded.environment["PYTHONIOENCODING"] = "latin-1"
    for stage in ("prepare", "vocab", "train", "sample"):
        process = encoded.start("python", "-m", f"pipeline.{stage}", encoding="latin-1")
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")


def test_a_store_in_a_folder_of_files_is_refused_in_one_line(encoded):
    encoded.environment["MLFLOW_TRACKING_URI"] = "file:./mlruns"
    err = encoded.stage("deliver").stderr
    encoded.stage("train")
    err = encoded.stage("deliver", code=1).stderr
    assert "`mlflow migrate-filestore`" in err
    assert err.count("\n") == 1


def test_weights_are_sent_once(finished):
    """The weights themselves, and the model in MLflow's own form: not again with each picture."""
    _, (run,) = mlflow_runs(finished)
    path = artifact(finished, run, "weights.pkl")
    made = path.stat().st_mtime_ns
    finished.stage("sample")
    assert path.stat().st_mtime_ns == made
