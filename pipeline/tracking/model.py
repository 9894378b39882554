"""The model as MLflow logs and registers it."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import baregpt
from baregpt.weights import read_weights
from pipeline.common.stage import default_prompt

NAME = "baregpt"  # the name of logged and registered models
RESULT_METRICS = "result/train_loss", "result/validation_loss"
# the params of the served model
DEFAULTS = {"length": 512, "temperature": 0.8, "top_k": 20, "seed": -1}


def log_model(client, run_id, weights):
    """Log weights as the logged model of a run, unless it has one; return the id of the model."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    model = found[0] if found else client.create_logged_model(experiment_id, NAME, run_id)
    model_id = model.model_id
    if model.status == LoggedModelStatus.READY:
        return model_id
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/model", weights, run_id, model_id)
        client.log_model_artifacts(model_id, f"{folder}/model")
    histories = [client.get_metric_history(run_id, name) for name in RESULT_METRICS]
    metrics = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id)
        for history in histories
        for m in history
    ]
    client.log_batch(run_id, metrics)
    if model_id not in [output.model_id for output in run.outputs.model_outputs]:
        step = max((metric.step for metric in metrics), default=0)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def save_model(path, weights, run_id, model_id):
    """Save weights as a folder in MLflow's format, which served_model.py loads."""
    import mlflow
    import pandas  # a dependency of MLflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType
    from mlflow.utils import environment

    # Skip MLflow's check of the installed packages against these versions: it takes two seconds.
    environment.warn_dependency_requirement_mismatches = lambda model_requirements: None
    types = {int: "long", float: "double"}
    specs = [ParamSpec(name, types[type(value)], value) for name, value in DEFAULTS.items()]
    # not "string", to which MLflow would convert null and numbers
    prompt, text = Schema([ColSpec(AnyType(), "prompt")]), Schema([ColSpec("string")])
    _, vocab, metadata = read_weights(weights)
    example = pandas.DataFrame({"prompt": [default_prompt(vocab, metadata)]})
    served_model = Path(__file__).with_name("served_model.py")
    with tempfile.TemporaryDirectory() as folder:
        # without the pretrained weights: the model has its own
        code = shutil.copytree(
            Path(baregpt.__file__).parent,
            f"{folder}/baregpt",
            ignore=shutil.ignore_patterns("*.pkl", "__pycache__"),
        )
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            loader_module=served_model.stem,
            code_paths=[str(served_model), code],
            data_path=str(weights),
            signature=ModelSignature(prompt, text, ParamSchema(specs)),
            input_example=(example, DEFAULTS),
            pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "threadpoolctl")],
        )
