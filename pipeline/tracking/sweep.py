"""Grouping the runs of a sweep."""

import hashlib

from pipeline.tracking.new_run import NOTE
from pipeline.tracking.store import find_by_tag

LOSS = "result/validation_loss"


def group_sweep(sweep, run_id, client, experiment_id):
    """Make the runs of a sweep children of one parent run; a single run gets no parent."""
    sweep_id = hashlib.sha256(sweep.encode()).hexdigest()
    client.set_tag(run_id, "sweep.id", sweep_id)
    runs = client.search_runs([experiment_id], f"tags.`sweep.id` = '{sweep_id}'")
    if len(runs) < 2:
        return
    parent = find_by_tag("sweep.parent", sweep_id, client, experiment_id)
    if not parent:
        tags = {"sweep.parent": sweep_id, "mlflow.runName": sweep}
        parent = client.create_run(experiment_id, tags=tags)
        client.set_terminated(parent.info.run_id)
    for run in runs:
        client.set_tag(run.info.run_id, "mlflow.parentRunId", parent.info.run_id)
    show_best(parent, runs, client)


def show_best(parent, runs, client):
    """Log the loss of the best child to the parent. The params that differ among the children
    become tags, because params cannot be changed.
    """
    finished = [run for run in runs if LOSS in run.data.metrics]
    best = min(finished, key=lambda run: run.data.metrics[LOSS], default=None)
    if best is None:
        return
    loss, params = best.data.metrics[LOSS], best.data.params
    swept = {n: x for n, x in params.items() if len({run.data.params.get(n) for run in runs}) > 1}
    values = ", ".join(f"{name} {value}" for name, value in swept.items())
    tags = {f"best.{name}": value for name, value in swept.items()}
    tags["best.run"] = best.info.run_name
    tags[NOTE] = (
        f"Best of {len(finished)} finished runs: {best.info.run_name}, validation loss {loss:.4f}"
        + (f" with {values}." if values else ".")  # none if only sample.* is swept
    )
    for name, value in tags.items():
        client.set_tag(parent.info.run_id, name, value)
    if parent.data.metrics.get(LOSS) != loss:
        client.log_metric(parent.info.run_id, LOSS, loss)
