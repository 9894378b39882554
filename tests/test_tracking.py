"""A tracking server that is down, slow, or gone loses no records; and errors contain no secrets."""

import json
import secrets
import socket
from contextlib import closing

from conftest import mlflow_runs
from filelock import FileLock
from servers import Tracking

from pipeline.tracking import outbox, store
from pipeline.tracking.record import FINISHED, KILLED, RunRecord, now

SECRET = secrets.token_hex(16)


def steps_of(client, run, name="train_loss"):
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def assert_one_warning(err):
    assert err.startswith("warning: MLflow ")
    assert err.count("\n") == 1
    assert "; the run is queued in data/undelivered and will be delivered by the next stage" in err
    assert "`python -m pipeline.deliver`" in err


def test_a_server_that_is_down_gets_everything_later(encoded, tmp_path):
    server = Tracking(tmp_path, encoded.environment)
    encoded.environment["MLFLOW_TRACKING_URI"] = server.address.replace(
        "//", f"//founder:{SECRET}@"
    )
    encoded.environment["AWS_SECRET_ACCESS_KEY"] = SECRET
    stages = [encoded.stage(stage) for stage in ("train", "sample", "plot_attention")]
    for process in stages:
        assert_one_warning(process.stderr)
    assert len(list(encoded.path.glob("data/undelivered/*/record.json"))) == 3
    err = encoded.stage("deliver", code=1).stderr
    assert err.startswith("error: MLflow cannot reach its store, set by MLFLOW_TRACKING_URI (")

    # where a folder should be, so that it takes no files: all else gets there
    (tmp_path / "artifacts").touch()
    stopped = RunRecord("training", {"training": "stopped"}, status=KILLED, end=now())
    (encoded.path / "data/undelivered/stopped").mkdir()
    (encoded.path / "data/undelivered/stopped/record.json").write_text(json.dumps(vars(stopped)))
    with server:
        refused = encoded.stage("deliver", code=1)
        assert refused.stderr.startswith("error: MLflow refused a run (")
        client, runs = server.runs()
        assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
        client.delete_run(next(run.info.run_id for run in runs if run.info.status == "KILLED"))
    assert len(list(encoded.path.glob("data/undelivered/*/record.json"))) == 3
    (tmp_path / "artifacts").unlink()

    with server:
        delivered = encoded.stage("deliver")
        assert delivered.stdout == "delivered 3 records\n"
        assert_secret([*stages, refused, delivered], encoded.path, tmp_path)
        assert encoded.stage("deliver").stdout == "the outbox is empty\n"
        client, (run,) = server.runs()
        assert run.info.status == "FINISHED"
        assert steps_of(client, run) == list(range(1, 21))
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        made = {
            "weights.pkl",
            "vocab.json",
            "loss.png",
            "model",
            "samples.txt",
            "attention.png",
            "explore.html",
        }
        assert artifacts == made
    assert not list(encoded.path.glob("data/undelivered/*/"))


def test_what_another_keeps_waiting_is_not_lost(encoded, monkeypatch, capsys):
    """Another, in this checkout, delivers for longer than this one waits."""
    monkeypatch.chdir(encoded.path)
    monkeypatch.setattr(store.LOCK, "timeout", 0.1)
    monkeypatch.setattr(outbox, "warned", set())
    with FileLock(store.LOCK.lock_file):
        outbox.enqueue(RunRecord("training", {"training": "one"}, status=FINISHED, end=1))
        outbox.deliver_or_warn()
    assert "the run is queued in data/undelivered" in capsys.readouterr().err
    assert encoded.stage("deliver").stdout == "delivered 1 records\n"
    assert mlflow_runs(encoded)[1][0].data.tags["training"] == "one"


def test_a_server_that_goes_halfway_gets_the_rest_from_the_next_run(encoded, tmp_path):
    encoded.set_params(train={"steps": 400, "evaluation_interval": 20}, checkpoint={"interval": 20})
    server = Tracking(tmp_path, encoded.environment)
    with server:
        encoded.environment["MLFLOW_TRACKING_URI"] = server.address
        process = encoded.start("python", "-m", "pipeline.train")
        while "step 60:" not in process.stdout.readline():
            assert process.poll() is None
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert_one_warning(err)
    with server:
        client, (run,) = server.runs()
        assert 20 <= len(steps_of(client, run)) < 400
        assert encoded.stage("sample").stderr == ""
        client, (run,) = server.runs()
        assert run.info.status == "FINISHED"
        assert steps_of(client, run) == list(range(1, 401))
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"weights.pkl", "vocab.json", "loss.png", "model", "samples.txt"}


def test_a_server_that_never_answers_does_not_hold_training_up(encoded):
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        encoded.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{mute.getsockname()[1]}"
        encoded.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
        assert_one_warning(encoded.stage("train").stderr)
    assert (encoded.path / "data/weights.pkl").exists()


def test_what_was_not_delivered_survives_a_kill_and_another_training(encoded):
    """The record of a training that was given up while the server was down."""
    encoded.set_params(train={"steps": 1_000_000}, checkpoint={"interval": 10})
    encoded.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    process = encoded.start("python", "-m", "pipeline.train")
    while "step 30:" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    del encoded.environment["MLFLOW_TRACKING_URI"]
    encoded.set_params(train={"steps": 20})
    encoded.stage("train")
    client, runs = mlflow_runs(encoded)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    given_up = steps_of(client, runs[1])
    assert given_up == list(range(1, len(given_up) + 1))
    assert len(given_up) >= 20


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
