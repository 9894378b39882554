"""Everything that talks to MLflow."""

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while mlflow is imported
import mlflow
from mlflow.entities import Metric, RunStatus
from mlflow.exceptions import MlflowException

EXPERIMENT = "baregpt"
METRICS_IN_A_BATCH = 500  # MLflow takes up to 1,000 in one call


def connect():
    """Point MLflow at MLFLOW_TRACKING_URI, or else at a SQLite store in this checkout; return a client
    and our experiment."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a new store's table by table account
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds, not minutes, until we know it is down
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
    try:
        return mlflow.MlflowClient(), mlflow.set_experiment(EXPERIMENT)
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"MLflow cannot reach its store, set by MLFLOW_TRACKING_URI: {reason}") from None


def md5(path):
    """The checksum by which DVC knows a file."""
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def flat(values, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for name, value in values.items() for k, v in flat(value, f"{prefix}.{name}".strip(".")).items()}


class TrainingRun:
    """The MLflow run of one training."""

    def __init__(self, client, run_id):
        self.client, self.run_id = client, run_id
        self.metrics = []

    def log(self, step, **values):
        """Note values of a step; sent in batches."""
        now = int(time.time() * 1000)
        self.metrics += [Metric(name, value, now, step) for name, value in values.items() if value is not None]
        if len(self.metrics) >= METRICS_IN_A_BATCH:
            self.send()

    def send(self):
        self.client.log_batch(self.run_id, metrics=self.metrics)
        self.metrics = []

    def finish(self, weights, artifacts):
        """Keep the weights and other files, and tag the run with the weights' checksum: later stages look for it."""
        self.send()
        for path in (weights, *artifacts):
            self.client.log_artifact(self.run_id, path)
        self.client.set_tag(self.run_id, "weights.md5", md5(weights))


@contextlib.contextmanager
def training_run(params, corpus_md5, counts):
    """A run for one training, with its params, corpus and parameter counts; marked failed or killed if it is."""
    client, _ = connect()
    run_id = mlflow.start_run().info.run_id
    run, status = TrainingRun(client, run_id), RunStatus.FAILED
    try:
        mlflow.log_params(flat(params))
        mlflow.set_tag("corpus.md5", corpus_md5)  # MLflow itself adds the git commit
        mlflow.log_metrics(counts)
        yield run
        status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    finally:
        try:
            run.send()
        finally:
            mlflow.end_run(RunStatus.to_string(status))


def find_run(weights):
    """The run that made these weights, known by their checksum; or None."""
    client, experiment = connect()
    runs = client.search_runs([experiment.experiment_id], f"tags.`weights.md5` = '{md5(weights)}'", max_results=1)
    return runs[0] if runs else None


def log_to_run_of(weights, *paths):
    """Add files to the run that made these weights; or to a new run, if they came alone."""
    client, _ = connect()
    if made_by := find_run(weights):
        run_id = made_by.info.run_id
    else:
        with mlflow.start_run(tags={"weights.md5": md5(weights)}) as run:
            run_id = run.info.run_id
            client.log_artifact(run_id, weights)
    for path in paths:
        client.log_artifact(run_id, path)
