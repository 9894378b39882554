"""Put the trained weights into MLflow's model registry, as a version that DVC's checksum ties to
them.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

from baregpt.weights import load_weights, read_weights
from pipeline.common.inputs import checksum
from pipeline.common.stage import WEIGHTS, run
from pipeline.tracking import client as tracking
from pipeline.tracking import outbox, store
from pipeline.tracking.record import FINISHED, Record, now

NAME = "baregpt"
DEFAULTS = {"length": 512, "temperature": 0.8, "top_k": 20, "seed": -1}  # of the served model


def log_model(client, run_id, weights):
    """Add weights to a run as a model that MLflow can register, load and serve: served_model.py."""
    import mlflow
    import pandas  # which MLflow brings
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.utils import environment

    # It would go through all packages here, for two seconds, to warn if these versions are not
    # those here.
    environment.warn_dependency_requirement_mismatches = lambda model_requirements: None
    types = {int: "long", float: "double"}
    specs = [ParamSpec(name, types[type(value)], value) for name, value in DEFAULTS.items()]
    prompt, text = Schema([ColSpec("string", "prompt")]), Schema([ColSpec("string")])
    _, vocab = load_weights(weights)
    here = Path(__file__).with_name("tracking")
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            f"{folder}/model",
            loader_module="served_model",
            code_paths=[str(here / "served_model.py"), str(here.parents[1] / "baregpt")],
            data_path=str(weights),
            signature=ModelSignature(prompt, text, ParamSchema(specs)),
            input_example=(pandas.DataFrame({"prompt": [vocab.characters[0]]}), DEFAULTS),
            pip_requirements=[f"{name}=={version(name)}" for name in ("numpy", "threadpoolctl")],
        )
        client.log_artifacts(run_id, f"{folder}/model", "model")


def register(connection, md5, loss):
    """The version of the registered model that has the trained weights, and whether it is new."""
    client, _ = connection
    known = client.search_model_versions(f"name = '{NAME}'")
    if same := [one for one in known if one.tags.get("weights.md5") == md5]:
        return same[0].version, False
    tags = {"weights.md5": md5}
    record = Record("weights.md5", tags, status=FINISHED, end=now())
    delivery = tracking.Delivery()
    delivery.deliver(record, connection, [WEIGHTS])
    log_model(client, delivery.run_id, WEIGHTS)  # again: it may not be there, or not all of it
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    source = f"{client.get_run(delivery.run_id).info.artifact_uri}/model"
    tags |= {"validation_loss": loss}
    return client.create_model_version(NAME, source, delivery.run_id, tags).version, True


def main():
    _, _, metadata = read_weights(WEIGHTS)
    md5, loss = checksum(WEIGHTS), str(metadata.get("validation_loss"))
    with store.LOCK:  # two at once would make two versions
        outbox.deliver_or_warn()
        connection = store.connect()
        try:
            number, is_new = register(connection, md5, loss)
        except Exception as error:  # of any kind: each store has its own
            reason = store.without_secrets(error)
            raise OSError(f"MLflow does not register the model ({reason})") from None
    if is_new:
        print(f"{NAME} version {number} has these weights: md5 {md5}, validation loss {loss}")
    else:
        print(f"{NAME} version {number} already has these weights, md5 {md5}")


if __name__ == "__main__":
    run(main)
