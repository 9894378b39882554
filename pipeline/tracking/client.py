"""Sending run records to MLflow."""

from pipeline.common.paths import WEIGHTS
from pipeline.common.record import FINISHED
from pipeline.tracking.model import log_model
from pipeline.tracking.store import find_by_tag
from pipeline.tracking.sweep import group_sweep

MAX_STEPS = 100  # in one call, because MLflow takes at most 1,000 metrics


def send(record, files, client, experiment_id):
    """Send the parts of a record that MLflow does not have yet; return the id of its run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run = find_by_tag(record.key, record.tags[record.key], client, experiment_id)
    run = run or client.create_run(experiment_id, record.start, record.tags)
    run_id, logged = run.info.run_id, run.data.metrics
    params = [Param(*param) for param in record.params.items()]
    client.log_batch(run_id, params=params, tags=[RunTag(*tag) for tag in record.tags.items()])
    if record.dataset:  # logging it again has no effect
        context = InputTag("mlflow.data.context", "training")
        client.log_inputs(run_id, [DatasetInput(Dataset(**record.dataset), [context])])
    # gradient_norm is logged last in each step, so a step that has it is complete
    history = client.get_metric_history(run_id, "optimizer/gradient_norm") if logged else []
    last = max((metric.step for metric in history), default=-1)
    new = [Metric(*m) for m in record.metrics if m[3] > last or m[0] not in logged]
    steps = sorted({metric.step for metric in new})
    for i in range(0, len(steps), MAX_STEPS):
        chunk = steps[i : i + MAX_STEPS]
        client.log_batch(run_id, [m for m in new if chunk[0] <= m.step <= chunk[-1]])
    if "sweep" in record.tags:
        group_sweep(record.tags["sweep"], run_id, client, experiment_id)
    if run.info.status not in (FINISHED, record.status):
        if record.end:
            client.set_terminated(run_id, record.status, record.end)
        else:  # it was interrupted and has resumed
            client.update_run(run_id, record.status)
    send_artifacts(record, files, client, run_id)  # last: a server may reject large files
    return run_id


def send_artifacts(record, files, client, run_id):
    """Log texts and files.

    The record of a later stage includes the weights; they are logged only if the run has none.
    """
    for name, text in record.texts.items():
        client.log_text(run_id, text, name)  # always, because the text may have grown
    present = {file.path for file in client.list_artifacts(run_id)} if files else set()
    is_training = record.key == "training"
    for file in files:
        if is_training or file.name != WEIGHTS.name or file.name not in present:
            client.log_artifact(run_id, file)
        if is_training and file.name == WEIGHTS.name:
            log_model(client, run_id, file)
