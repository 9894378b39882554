"""The corpus as MLflow's dataset."""

import json
from pathlib import Path


def describe_corpus(path, md5, training_characters, validation_characters):
    """Return the fields of MLflow's Dataset: its digest is the MD5 that DVC records."""
    counts = {"training": training_characters, "validation": validation_characters}
    return {
        "name": Path(path).stem[:500],
        "digest": md5,
        "source_type": "local",
        "source": json.dumps({"uri": path}),
        "profile": json.dumps({f"{name}_characters": count for name, count in counts.items()}),
    }


def log_dataset(client, run_id, dataset):
    """Log these fields as the dataset of a run. Logging them again has no effect."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(Dataset(**dataset), [context])])
