"""The model as MLflow logs and registers it."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import baregpt
from baregpt.weights import load_weights

DEFAULTS = {"length": 512, "temperature": 0.8, "top_k": 20, "seed": -1}  # of the served model


def log_model(client, run_id, weights):
    """Log weights to a run as an MLflow model, which served_model.py loads."""
    import mlflow
    import pandas  # a dependency of MLflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.utils import environment

    # Skip MLflow's check of the installed packages against these versions: it takes two seconds.
    environment.warn_dependency_requirement_mismatches = lambda model_requirements: None
    types = {int: "long", float: "double"}
    specs = [ParamSpec(name, types[type(value)], value) for name, value in DEFAULTS.items()]
    prompt, text = Schema([ColSpec("string", "prompt")]), Schema([ColSpec("string")])
    _, vocab = load_weights(weights)
    served_model = Path(__file__).with_name("served_model.py")
    with tempfile.TemporaryDirectory() as folder:
        # without the included weights: the model has its own
        code = shutil.copytree(
            Path(baregpt.__file__).parent,
            f"{folder}/baregpt",
            ignore=shutil.ignore_patterns("*.pkl", "__pycache__"),
        )
        mlflow.pyfunc.save_model(
            f"{folder}/model",
            loader_module=served_model.stem,
            code_paths=[str(served_model), code],
            data_path=str(weights),
            signature=ModelSignature(prompt, text, ParamSchema(specs)),
            input_example=(pandas.DataFrame({"prompt": [vocab.characters[0]]}), DEFAULTS),
            pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "threadpoolctl")],
        )
        client.log_artifacts(run_id, f"{folder}/model", "model")
