"""Sending run records to MLflow."""

import os
import re
import uuid
from pathlib import Path

from pipeline.common.paths import CHECKOUT, WEIGHTS
from pipeline.common.yaml_file import flatten
from pipeline.tracking import store
from pipeline.tracking.model import log_model
from pipeline.tracking.record import FINISHED

MAX_METRICS = 1000  # in one call, by MLflow's limit


def describe_training(params, corpus_md5):
    """Return the tags and params of a training that begins; the tag `training` identifies it."""
    from mlflow.tracking.context.registry import resolve_tags

    # resolve_tags adds the git commit
    tags = resolve_tags({"training": uuid.uuid4().hex, "corpus.md5": corpus_md5})
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["mlflow.runName"] = name
        is_queued = Path.cwd() != CHECKOUT  # DVC numbers the experiments that one command queues
        if is_queued and (sweep := re.fullmatch(r"(.+)-\d+", name)):
            tags["sweep"] = f"{sweep[1]}, from {os.environ.get('DVC_EXP_BASELINE_REV', '')[:7]}"
    return tags, {name: str(value) for name, value in flatten(params).items()}


class Delivery:
    """Sends one record to MLflow, as often as it is asked to, each metric only once.

    The run is found by the record's identifying tag.
    """

    def __init__(self):
        self.run_id = None
        self.sent = dict[str, int]()  # metric -> the last step that MLflow has

    def deliver(self, record, connection, files=()):
        """Send new metrics, tags, status and artifacts; OSError if MLflow refuses them."""
        from mlflow.entities import Metric, RunTag

        client, experiment = connection
        try:
            if self.run_id is None:
                self.run_id = self.find_or_create(record, client, experiment.experiment_id)
            new = [values for values in record.metrics if values[3] > self.sent.get(values[0], -1)]
            metrics = [Metric(*values) for values in new]
            for i in range(0, len(metrics), MAX_METRICS):
                client.log_batch(self.run_id, metrics=metrics[i : i + MAX_METRICS])
            self.sent |= {metric.key: metric.step for metric in metrics}
            client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in record.tags.items()])
            self.set_status(record, client)
            self.log_artifacts(record, files, client)  # last: a server may refuse large files
        except Exception as error:  # of any type: each kind of store has its own
            raise OSError(f"MLflow refused a run ({store.without_secrets(error)})") from None

    def find_or_create(self, record, client, experiment_id):
        """Return the id of the record's run, which is created if necessary."""
        from mlflow.entities import Param

        run = find_by_tag(record.key, record.name, client, experiment_id)
        run = run or client.create_run(experiment_id, record.start, record.tags)
        run_id = run.info.run_id
        if "sweep" in record.tags:
            group_sweep(record.tags["sweep"], client, experiment_id)
        for name in run.data.metrics if record.metrics else ():
            self.sent[name] = max(m.step for m in client.get_metric_history(run_id, name))
        client.log_batch(run_id, params=[Param(*param) for param in record.params.items()])
        return run_id

    def set_status(self, record, client):
        """Set the run's status to the record's; a finished run stays finished."""
        status = client.get_run(self.run_id).info.status
        if status in (FINISHED, record.status):
            return
        if record.end:
            client.set_terminated(self.run_id, record.status, record.end)
        else:  # it was interrupted and has resumed
            client.update_run(self.run_id, record.status)

    def log_artifacts(self, record, files, client):
        """Log files as artifacts; weights that the run already has are not sent again."""
        present = {file.path for file in client.list_artifacts(self.run_id)} if files else set()
        for file in files:
            if record.key == "training" or file.name != WEIGHTS.name or file.name not in present:
                client.log_artifact(self.run_id, file)
            if record.key == "training" and file.name == WEIGHTS.name:
                log_model(client, self.run_id, file)


def find_by_tag(key, value, client, experiment_id):
    """Return the run that has a tag with this value, or None."""
    found = client.search_runs([experiment_id], f"tags.`{key}` = '{value}'", max_results=1)
    return found[0] if found else None


def group_sweep(sweep, client, experiment_id):
    """Make the runs of a sweep children of one parent run; a single run gets no parent."""
    with store.LOCK:
        runs = client.search_runs([experiment_id], f"tags.sweep = '{sweep}'")
        if len(runs) < 2:
            return
        parent = find_by_tag("sweep.parent", sweep, client, experiment_id)
        if not parent:
            tags = {"sweep.parent": sweep, "mlflow.runName": sweep}
            parent = client.create_run(experiment_id, tags=tags)
            client.set_terminated(parent.info.run_id)
        for run in runs:
            client.set_tag(run.info.run_id, "mlflow.parentRunId", parent.info.run_id)


def find_training(weights_md5):
    """Return the run that made these weights, or None."""
    client, experiment = store.connect()
    return find_by_tag("weights.md5", weights_md5, client, experiment.experiment_id)
