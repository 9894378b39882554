"""Register the trained weights in MLflow's model registry, tagged with their MD5."""

import math

from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.paths import WEIGHTS
from pipeline.common.record import FINISHED, RunRecord, now
from pipeline.common.stage import run
from pipeline.tracking import outbox, store
from pipeline.tracking.client import send
from pipeline.tracking.model import NAME, log_model
from pipeline.tracking.new_run import NOTE

ALIAS = "champion"  # the alias of the version with the lowest validation loss
DESCRIPTION = (
    "Character-level GPTs in NumPy, which continue a prompt. Each version is one weights file;"
    f" the alias {ALIAS} marks the version with the lowest validation loss."
)


def register(client, experiment_id, md5, loss):
    """Register the weights unless a version has them; return (version, whether it is new)."""
    versions = client.search_model_versions(f"name = '{NAME}'")
    if same := [version for version in versions if version.tags.get("weights.md5") == md5]:
        return same[0].version, False
    tags = {"weights.md5": md5}
    record = RunRecord(md5, "weights.md5", tags, status=FINISHED, end=now())
    run_id = send(record, [WEIGHTS], client, experiment_id)
    model_id = log_model(client, run_id, WEIGHTS)  # again: it may be missing or incomplete
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description=DESCRIPTION)
    if loss is not None:
        tags["validation_loss"] = str(loss)
    note = client.get_run(run_id).data.tags.get(NOTE, f"Weights with MD5 {md5}.")
    source = f"models:/{model_id}"
    version = client.create_model_version(
        NAME, source, run_id, tags, description=note, model_id=model_id
    )
    return version.version, True


def choose_champion(client):
    """Give the alias to the version with the lowest validation loss, and return that version."""

    def loss(version):
        try:
            return float(version.tags["validation_loss"])
        except (KeyError, ValueError):  # earlier releases wrote "None"
            return math.inf

    champion = min(client.search_model_versions(f"name = '{NAME}'"), key=loss).version
    client.set_registered_model_alias(NAME, ALIAS, champion)
    return champion


def main():
    _, _, metadata = read_weights(WEIGHTS)
    md5, loss = checksum(WEIGHTS), metadata.get("validation_loss")
    outbox.DeliveryProcess().close()  # the run of the weights may be in the outbox
    with outbox.limited(), store.LOCK:  # two processes would create two versions
        client, experiment_id = store.connect()
        try:
            version, is_new = register(client, experiment_id, md5, loss)
            champion = choose_champion(client)
        except Exception as error:  # any type: each kind of store has its own
            reason = store.without_secrets(error)
            raise OSError(f"MLflow rejected the model ({reason})") from None
    if is_new:
        known = "" if loss is None else f", validation loss {loss}"
        print(f"registered {NAME} version {version}: md5 {md5}{known}")
    else:
        print(f"{NAME} version {version} already has these weights: md5 {md5}")
    print(f"{NAME}@{ALIAS} is version {champion}")


if __name__ == "__main__":
    run(main, description=__doc__)
