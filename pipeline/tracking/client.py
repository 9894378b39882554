"""What MLflow is told of a run, and how."""

import os
import re
import uuid
from pathlib import Path

from pipeline.common.params import flat
from pipeline.common.stage import WEIGHTS
from pipeline.tracking import store
from pipeline.tracking.record import FINISHED

AT_ONCE = 1000  # metrics that MLflow takes in one call


def describe_training(params, corpus_md5):
    """The tags and params of a training that begins; `training` tells it from all others."""
    from mlflow.tracking.context.registry import resolve_tags

    # MLflow's own tags say the git commit
    tags = resolve_tags({"training": uuid.uuid4().hex, "corpus.md5": corpus_md5})
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["mlflow.runName"] = name
        queued = Path.cwd() != store.HOME  # and so in a copy; DVC numbers what one command queues
        if queued and (sweep := re.fullmatch(r"(.+)-\d+", name)):
            tags["sweep"] = f"{sweep[1]}, from {os.environ.get('DVC_EXP_BASELINE_REV', '')[:7]}"
    return tags, {name: str(value) for name, value in flat(params).items()}


class Delivery:
    """Brings one record (see outbox.py) to MLflow, as far as it has come, as often as it is asked.

    Its run is found by the record's tags, and of each metric only the steps that MLflow does not
    have yet are sent.
    """

    def __init__(self):
        self.run_id = None
        self.sent = dict[str, int]()  # metric -> the last step that MLflow has

    def deliver(self, record, connection, files=()):
        """Send what MLflow does not have yet, and files as artifacts; OSError, in one line, if that
        fails.
        """
        from mlflow.entities import Metric, RunTag

        client, experiment = connection
        try:
            if self.run_id is None:
                self.run_id = self.find_or_create(record, client, experiment.experiment_id)
            new = [values for values in record.metrics if values[3] > self.sent.get(values[0], -1)]
            metrics = [Metric(*values) for values in new]
            for i in range(0, len(metrics), AT_ONCE):
                client.log_batch(self.run_id, metrics=metrics[i : i + AT_ONCE])
            self.sent |= {metric.key: metric.step for metric in metrics}
            client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in record.tags.items()])
            self.set_status(record, client)
            self.add_files(record, files, client)  # last: a server may refuse what is too large
        except Exception as error:  # of any kind: each store has its own
            raise OSError(f"MLflow does not take a run ({store.without_secrets(error)})") from None

    def find_or_create(self, record, client, experiment_id):
        """The id of the record's run, which is made if need be; and what it has of the metrics."""
        from mlflow.entities import Param

        run = run_with_tag(record.key, record.name, client, experiment_id)
        run = run or client.create_run(experiment_id, record.start, record.tags)
        run_id = run.info.run_id
        if "sweep" in record.tags:
            put_under_parent(record.tags["sweep"], client, experiment_id)
        for name in run.data.metrics if record.metrics else ():
            self.sent[name] = max(m.step for m in client.get_metric_history(run_id, name))
        client.log_batch(run_id, params=[Param(*param) for param in record.params.items()])
        return run_id

    def set_status(self, record, client):
        """Have the run say how the record's training stands; a run that has finished stays so."""
        status = client.get_run(self.run_id).info.status
        if status in (FINISHED, record.status):
            return
        if record.end:
            client.set_terminated(self.run_id, record.status, record.end)
        else:  # it was interrupted, and goes on
            client.update_run(self.run_id, record.status)

    def add_files(self, record, files, client):
        """Add artifacts to the run; weights that it has already are not sent again."""
        from pipeline.register import log_model

        there = {file.path for file in client.list_artifacts(self.run_id)} if files else set()
        for file in files:
            if record.key == "training" or file.name != WEIGHTS.name or file.name not in there:
                client.log_artifact(self.run_id, file)
            if record.key == "training" and file.name == WEIGHTS.name:
                log_model(client, self.run_id, file)


def run_with_tag(key, value, client, experiment_id):
    """The run of which a tag says this; or None."""
    found = client.search_runs([experiment_id], f"tags.`{key}` = '{value}'", max_results=1)
    return found[0] if found else None


def put_under_parent(sweep, client, experiment_id):
    """Have the UI show the runs of a sweep under one: an experiment alone is none, whatever its
    name.
    """
    with store.LOCK:
        runs = client.search_runs([experiment_id], f"tags.sweep = '{sweep}'")
        if len(runs) < 2:
            return
        parent = run_with_tag("sweep.parent", sweep, client, experiment_id)
        if not parent:
            tags = {"sweep.parent": sweep, "mlflow.runName": sweep}
            parent = client.create_run(experiment_id, tags=tags)
            client.set_terminated(parent.info.run_id)
        for run in runs:
            client.set_tag(run.info.run_id, "mlflow.parentRunId", parent.info.run_id)


def find_run(weights_md5):
    """The run that made these weights, known by their checksum; or None."""
    client, experiment = store.connect()
    return run_with_tag("weights.md5", weights_md5, client, experiment.experiment_id)
