"""The record of a new training run: its name, description, params, tags and dataset."""

import getpass
import json
import os
import re
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import yaml

from pipeline.common.inputs import checksum
from pipeline.common.paths import CHECKOUT, PARAMS
from pipeline.common.record import RunRecord, shorten
from pipeline.common.yaml_file import Loader, flatten, read_yaml
from pipeline.tracking.store import store_name

NOTE = "mlflow.note.content"  # the tag that MLflow shows as the description of a run


def new_record(setup):
    """Return the record of a new training run, with a random tag `training`.

    setup: a TrainingSetup.
    """
    params, model = setup.params, setup.model
    tags = source_tags() | {"training": uuid.uuid4().hex, "corpus.md5": setup.corpus["md5"]}
    if params.train.init:
        tags["init.md5"] = checksum(params.train.init)
    path, shape = Path(params.corpus.path), params.model
    name = f"{path.stem}, {shape.n_layers}×{shape.d_model}, {params.train.steps:,} steps"
    if experiment := os.environ.get("DVC_EXP_NAME"):
        name += f" ({experiment})"
        tags["dvc.experiment"] = experiment
        is_queued = Path.cwd() != CHECKOUT  # DVC numbers the experiments that one command queues
        if is_queued and (sweep := re.fullmatch(r"(.+)-\d+", experiment)):
            tags["sweep"] = f"{sweep[1]}, from {os.environ.get('DVC_EXP_BASELINE_REV', '')[:7]}"
    tags["mlflow.runName"] = name
    tags[NOTE] = (
        f"Layers {shape.n_layers}, heads {shape.n_heads}, width {shape.d_model}, context"
        f" {shape.block_size}: {model.n_parameters:,} parameters. Corpus {path}:"
        f" {len(setup.train_ids):,} characters for training, {len(setup.validation_ids):,} for"
        " validation."
    )
    if changes := uncommitted_params():
        tags["params.uncommitted"] = shorten(changes)
        tags[NOTE] = shorten(
            f"{tags[NOTE]}\n\nparams.yaml differs from the committed version: {changes}."
        )
    record = RunRecord(tags["training"], "training", tags, store_name())
    values = {
        name: value
        for name, value in flatten(params.model_dump()).items()
        if not name.startswith(("sample.", "plot_attention."))  # see attach_artifacts
    }
    record.params = {name: shorten(x) for name, x in (values | parameter_counts(model)).items()}
    record.texts[PARAMS.name] = PARAMS.read_text(encoding="utf-8")
    record.dataset = describe_corpus(setup)
    return record


def describe_corpus(setup):
    """Return the fields of MLflow's Dataset: its digest is the MD5 that DVC records."""
    path = setup.params.corpus.path
    splits = {"training": setup.train_ids, "validation": setup.validation_ids}
    return {
        "name": Path(path).stem[:500],
        "digest": setup.corpus["md5"],
        "source_type": "local",
        "source": json.dumps({"uri": path}),
        "profile": json.dumps({f"{name}_characters": len(ids) for name, ids in splits.items()}),
    }


def source_tags():
    """Return the tags in which MLflow records the user, the command and its git commit.

    `resolve_tags` of MLflow returns the same values, but importing MLflow takes a second.
    """
    try:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (ImportError, KeyError, OSError):  # this user has no name, as in some containers
        user = "unknown"
    tags = {
        "mlflow.user": user,
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_output("rev-parse", "HEAD").decode().strip(),
    }
    return {name: value for name, value in tags.items() if value}


def git_output(*arguments):
    """Return what a git command prints, or b"" if it fails or git is not installed."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def parameter_counts(model):
    """Return the number of parameters, in total and by kind of layer, as `parameters.NAME`."""
    counts = Counter({"parameters.total": model.n_parameters})
    for name, parameter in model.parameters.items():  # summed over the blocks
        layer = re.sub(r"blocks\.\d+\.", "", name).split(".")[0]
        counts[f"parameters.{layer}"] += parameter.size
    return counts


def uncommitted_params():
    """Return how params.yaml differs from the committed version, or "" if it does not differ or is
    not in a git repository.
    """
    try:
        committed = flatten(yaml.load(git_output("show", f"HEAD:./{PARAMS}"), Loader) or {})
    except yaml.YAMLError:
        committed = {}
    if not committed:
        return ""
    values = flatten(read_yaml(PARAMS))
    return ", ".join(
        f"{name} {values.get(name)} (committed: {committed.get(name)})"
        for name in {**values, **committed}
        if values.get(name) != committed.get(name)
    )
