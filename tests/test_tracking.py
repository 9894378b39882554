"""A tracking server that is down, slow, or gone loses no records; and errors contain no secrets."""

import json
import secrets
import shutil
import signal
import socket
import sqlite3
import time
from contextlib import closing

import pytest
from conftest import Checkout, mlflow_runs, processes, read_until
from filelock import FileLock
from servers import Tracking, answering

from pipeline.common.record import FINISHED, KILLED, RunRecord, now
from pipeline.tracking import store

SECRET = secrets.token_hex(16)
LONG = {"train": {"steps": 300, "evaluation_interval": 50}, "checkpoint": {"interval": 20}}


def steps_of(client, run, name="loss/train"):
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def assert_one_warning(err):
    assert err.startswith("warning: MLflow ")
    assert err.count("\n") == 1
    assert "; the run is queued in data/undelivered and will be delivered by the next stage" in err
    assert "`python -m pipeline.deliver`" in err


def records_in(checkout):
    return list(checkout.path.glob("data/undelivered/*/record.json"))


def test_a_server_that_is_down_gets_everything_later(encoded, tmp_path):
    server = Tracking(tmp_path, encoded.environment)
    encoded.environment["MLFLOW_TRACKING_URI"] = server.address.replace(
        "//", f"//founder:{SECRET}@"
    )
    encoded.environment["AWS_SECRET_ACCESS_KEY"] = SECRET
    stages = [encoded.stage(stage) for stage in ("train", "sample", "plot_attention")]
    for process in stages:
        assert_one_warning(process.stderr)
    assert len(records_in(encoded)) == 3
    err = encoded.stage("deliver", code=1).stderr
    assert err.startswith(f"error: MLflow cannot use its store {server.address} (")

    # they belong to the server, whatever a later command has as its store
    address = encoded.environment.pop("MLFLOW_TRACKING_URI")
    elsewhere = encoded.stage("deliver")
    assert elsewhere.stdout == "no records to deliver\n"
    assert elsewhere.stderr == (
        f"warning: records in data/undelivered belong to the store {server.address}; set"
        " MLFLOW_TRACKING_URI to deliver them\n"
    )
    encoded.stage("sample")  # with a record of its own
    encoded.environment["MLFLOW_TRACKING_URI"] = address

    # the clock was set back after the training
    (path,) = [path for path in records_in(encoded) if '"key": "training"' in path.read_text()]
    record = json.loads(path.read_text())
    record["start"] += 10**8
    path.write_text(json.dumps(record))

    # a file in place of the folder for artifacts, so that it takes none: all else is delivered
    (tmp_path / "artifacts").touch()
    stopped = RunRecord("stopped", "training", {"training": "stopped"}, status=KILLED, end=now())
    (encoded.path / "data/undelivered/stopped").mkdir()  # as earlier releases named it
    (encoded.path / "data/undelivered/stopped/record.json").write_text(json.dumps(vars(stopped)))
    with server:
        refused = encoded.stage("deliver", code=1)
        assert refused.stderr.startswith("error: MLflow rejected a run (")
        client, runs = server.runs()
        assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
        client.delete_run(next(run.info.run_id for run in runs if run.info.status == "KILLED"))
        assert len(records_in(encoded)) == 3
        (tmp_path / "artifacts").unlink()
        delivered = encoded.stage("deliver")
        assert delivered.stdout == "delivered 3 records\n"
        assert_secret([*stages, refused, elsewhere, delivered], encoded.path, tmp_path)
        assert encoded.stage("deliver").stdout == "no records to deliver\n"
        client, (run,) = server.runs()
        assert run.info.status == "FINISHED"
        assert steps_of(client, run) == list(range(1, 21))
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        later = {"samples_by_step.txt", "samples.txt", "attention.png", "explore.html"}
        assert artifacts == {"params.yaml", "weights.pkl", "vocab.json", "loss.png"} | later
        (model,) = client.search_logged_models(["1"])  # though it was delivered in two parts
        assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
    assert not records_in(encoded)


def test_a_lock_that_another_process_holds_does_not_end_training(encoded):
    file = encoded.path / "pipeline/tracking/store.py"
    assert "timeout=60)" in file.read_text()
    file.write_text(file.read_text().replace("timeout=60)", "timeout=0.1)"))
    lock = encoded.path / "data/undelivered/lock"
    lock.parent.mkdir()
    with FileLock(lock):
        err = encoded.stage("train").stderr
    assert err.startswith("warning: ")
    assert "the run is queued in data/undelivered" in err
    assert encoded.stage("deliver").stdout == "delivered 1 record\n"
    assert mlflow_runs(encoded)[1][0].info.status == "FINISHED"


def test_a_server_that_stops_during_a_training_run_gets_the_rest_from_a_later_stage(
    encoded, tmp_path
):
    encoded.set_params(**LONG)
    server = Tracking(tmp_path, encoded.environment)
    with server:
        encoded.environment["MLFLOW_TRACKING_URI"] = server.address
        process = encoded.start("python", "-m", "pipeline.train")
        read_until(process, "step 50:")
        process.send_signal(signal.SIGSTOP)  # deliveries go on
        while not (runs := server.runs()[1]) or len(steps_of(server.runs()[0], runs[0])) < 20:
            time.sleep(0.1)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert_one_warning(err)
    with server:
        client, (run,) = server.runs()
        assert 20 <= len(steps_of(client, run)) < 300
        assert encoded.stage("sample").stderr == ""
        client, (run,) = server.runs()
        assert run.info.status == "FINISHED"
        assert steps_of(client, run) == list(range(1, 301))
        assert len(steps_of(client, run, "result/train_loss")) == 1
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        made = {"params.yaml", "weights.pkl", "vocab.json", "loss.png", "samples.txt"}
        made |= {"samples_by_step.txt"}
        assert artifacts == made


def test_training_does_not_wait_for_a_slow_server_and_stops_within_seconds(encoded):
    """A byte every three seconds: no request ever times out."""
    encoded.set_params(train={"steps": 40}, checkpoint={"interval": 10})
    with answering(b"{", pause=3) as address:
        encoded.environment["MLFLOW_TRACKING_URI"] = address
        process = encoded.start("python", "-m", "pipeline.train")
        read_until(process, "best step")  # and then it waits for the server
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert not processes(encoded.path)
    assert "resuming from" in encoded.stage("train", code=0).stdout


@pytest.mark.parametrize("data", [b"{", b"[" + b"0," * (1 << 16)])
def test_a_delivery_takes_bounded_time_and_memory(encoded, data):
    """From a server whose answer never ends."""
    file = encoded.path / "pipeline/tracking/outbox.py"
    text = file.read_text()
    assert "DELIVERY_TIMEOUT = 60" in text
    assert "MAX_MEMORY = 1 << 30" in text
    seconds, bits = (8, 30) if len(data) == 1 else (60, 28)
    text = text.replace("DELIVERY_TIMEOUT = 60", f"DELIVERY_TIMEOUT = {seconds}")
    file.write_text(text.replace("MAX_MEMORY = 1 << 30", f"MAX_MEMORY = 1 << {bits}"))
    record = RunRecord("one", "training", {"training": "one"}, status=FINISHED, end=1)
    (encoded.path / "data/undelivered/one").mkdir(parents=True)
    (encoded.path / "data/undelivered/one/record.json").write_text(json.dumps(vars(record)))
    program = "import resource, subprocess\n"
    program += "subprocess.run(['python', '-m', 'pipeline.deliver'])\n"
    program += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    with answering(data, pause=len(data) == 1) as address:
        encoded.environment["MLFLOW_TRACKING_URI"] = address
        process = encoded.run("python", "-c", program)
    assert process.stderr.startswith("error: MLflow ")
    assert process.stderr.count("\n") == 1
    assert int(process.stdout) < 800 << 10
    assert records_in(encoded)


def test_pyarrow_does_not_reserve_the_memory_that_a_delivery_may_use(encoded):
    program = "from pipeline.tracking import store; store.connect(); import pyarrow; "
    program += "print(pyarrow.default_memory_pool().backend_name)"
    assert encoded.run("python", "-c", program).stdout == "system\n"


def test_a_server_that_never_answers_does_not_hold_training_up(encoded):
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        encoded.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{mute.getsockname()[1]}"
        encoded.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
        assert_one_warning(encoded.stage("train").stderr)
    assert (encoded.path / "data/weights.pkl").exists()


def test_what_was_not_delivered_survives_a_kill_and_another_training_run(encoded, tmp_path):
    """The record of a training run that was given up while the server was down."""
    encoded.set_params(train={"steps": 1_000_000}, checkpoint={"interval": 10})
    server = Tracking(tmp_path, encoded.environment)
    encoded.environment["MLFLOW_TRACKING_URI"] = server.address
    process = encoded.start("python", "-m", "pipeline.train")
    read_until(process, "step 30:")
    process.kill()
    process.communicate()
    encoded.set_params(train={"steps": 20})
    with server:
        encoded.stage("train")
        client, runs = server.runs()
        assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
        given_up = steps_of(client, runs[1])
    assert given_up == list(range(1, len(given_up) + 1))
    assert len(given_up) >= 20


def test_a_database_that_is_deleted_during_a_training_run_is_created_again(encoded, monkeypatch):
    # otherwise, we read the deleted one
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    encoded.set_params(**LONG)
    process = encoded.start("python", "-m", "pipeline.train")
    read_until(process, "step 50:")
    process.send_signal(signal.SIGSTOP)
    with closing(sqlite3.connect(encoded.path / "mlflow.db")) as store:
        while not store.execute("SELECT * FROM runs").fetchall():
            time.sleep(0.1)
    (encoded.path / "mlflow.db").unlink()
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0
    client, (run,) = mlflow_runs(encoded)
    assert run.info.status == "FINISHED"
    assert steps_of(client, run) == list(range(1, 301))


def test_a_sweep_may_have_any_name(encoded, tmp_path):
    """In a copy, as DVC runs what was queued; MLflow's filters cannot quote all names."""
    copy = Checkout(shutil.copytree(encoded.path, tmp_path / "copy"))
    copy.environment["DVC_ROOT"] = str(encoded.path)
    for number in (1, 2):
        copy.environment["DVC_EXP_NAME"] = f"o'brien\"`%;--{number}"
        copy.set_params(sample={"seed": number})  # not a param of the training run
        assert copy.stage("train").stderr == ""
    _, runs = mlflow_runs(encoded)
    (parent,) = [run for run in runs if "sweep.parent" in run.data.tags]
    assert parent.data.tags["mlflow.runName"] == "o'brien\"`%;-, from "
    loss = parent.data.metrics["result/validation_loss"]
    assert parent.data.tags["mlflow.note.content"].endswith(f", validation loss {loss:.4f}.")
    children = [run for run in runs if run != parent]
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [parent.info.run_id] * 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_an_empty_database_is_replaced_and_a_deleted_experiment_named(encoded):
    (encoded.path / "mlflow.db").write_bytes(b"")
    assert encoded.stage("train").stderr == ""
    client, (run,) = mlflow_runs(encoded)
    assert run.info.status == "FINISHED"
    client.delete_experiment("1")
    err = encoded.stage("sample").stderr
    assert "experiment baregpt was deleted; restore it with" in err
    assert "`mlflow experiments restore --experiment-id 1`" in err
    client.restore_experiment("1")
    assert encoded.stage("deliver").stdout == "delivered 1 record\n"


def test_values_too_long_for_mlflow_are_cut_visibly(finished):
    finished.set_params(sample={"prompt": "What news? " * 700})
    assert finished.stage("sample").stderr == ""
    _, (run,) = mlflow_runs(finished)
    assert run.data.tags["sample.prompt"].endswith("... (7700 characters)")


def assert_secret(printed, *folders):
    """That no output, and no file that it left, has the server's password in it."""
    assert not any(SECRET in process.stdout + process.stderr for process in printed)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_an_error_that_quotes_a_secret_is_cleaned(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-123")
    error = ValueError(f"no answer\nfrom https://me:{SECRET}@example.org/x with token-123")
    assert (
        store.without_secrets(error)
        == "no answer from https://example.org/x with $MLFLOW_TRACKING_TOKEN"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"founder:{SECRET}@host:5000")
    unsupported = store.without_secrets(f"unsupported URI 'founder:{SECRET}@host:5000'")
    assert unsupported == "unsupported URI '$MLFLOW_TRACKING_URI'"
    assert SECRET not in store.without_secrets(f"cannot open 'x://founder:{SECRET}@host/db'")
