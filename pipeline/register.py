"""Put the trained weights into MLflow's model registry, as a version that DVC's checksum ties to them."""

from baregpt.weights import read_weights
from pipeline import tracking
from pipeline.stage import WEIGHTS, run

NAME = "baregpt"


def main():
    metadata, checksum = read_weights(WEIGHTS)[2], tracking.md5(WEIGHTS)
    with tracking.LOCK:  # two at once would make two versions
        tracking.deliver_all()
        connection = client, _ = tracking.connect()
        try:
            known = client.search_model_versions(f"name = '{NAME}'")
            if same := [version for version in known if version.tags.get("weights.md5") == checksum]:
                print(f"{NAME} version {same[0].version} already has these weights, md5 {checksum}")
                return
            delivery = tracking.Delivery(tracking.record_of(WEIGHTS))
            delivery.deliver(connection, [WEIGHTS])
            run_id = delivery.run_id
            tags = {"weights.md5": checksum, "validation_loss": str(metadata.get("validation_loss"))}
            tracking.log_model(client, run_id, WEIGHTS)  # again: it may not be there, or not all of it
            if not client.search_registered_models(f"name = '{NAME}'"):
                client.create_registered_model(NAME)
            source = f"{client.get_run(run_id).info.artifact_uri}/model"
            version = client.create_model_version(NAME, source, run_id, tags).version
        except Exception as error:  # of any kind: each store has its own
            raise OSError(f"MLflow does not register the model ({tracking.without_secrets(error)})") from None
    print(f"{NAME} version {version} has these weights: md5 {checksum}, validation loss {tags['validation_loss']}")


if __name__ == "__main__":
    run(main)
