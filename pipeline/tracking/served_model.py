"""The model as MLflow loads and serves it: prompts in, text out.

MLflow stores a copy of this file and of `baregpt` with the weights, and calls `_load_pyfunc`. The
weights are only ever unpickled by `baregpt.load_weights`.
"""

import functools
import gc
import sys
import time

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from baregpt import generate, load_weights

MAX_LENGTH = 10_000  # characters that a request may ask for, per prompt


class TextGenerator:
    def __init__(self, weights):
        self.model, self.vocab = load_weights(weights)

    def predict(self, model_input, params):
        """Return the continuation of each prompt in the column `prompt` of a DataFrame.

        params: length, temperature, top_k and seed, as for `baregpt.generate`; seed -1 is random.
        Invalid values raise MlflowException, whose message a server sends to the client.
        """
        prompts = []
        for entry in model_input["prompt"]:  # MLflow leaves {"prompt": [...]} as one entry, a list
            prompts += entry if isinstance(entry, list) else [entry]
        length, seed = params["length"], params["seed"]
        sampling = length, params["temperature"], params["top_k"], None if seed == -1 else seed
        try:
            for prompt in prompts:
                if not isinstance(prompt, str):
                    raise ValueError(f"prompt must be a string, got {prompt}")
            if not 0 <= length <= MAX_LENGTH:
                raise ValueError(
                    f"length must be at least 0 and at most {MAX_LENGTH}, got {length}"
                )
            if seed < -1:
                raise ValueError(f"seed must be -1 (random) or at least 0, got {seed}")
            streams = [generate(self.model, self.vocab, one, *sampling) for one in prompts]
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        # then the server itself sends a timeout response
        seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        deadline, server = time.monotonic() + seconds, find_server()

        def is_awaited():
            if server and (
                server.should_exit
                or not server.server_state.connections
                or time.monotonic() > deadline
            ):
                raise MlflowException(
                    "generation was stopped: the client disconnected, the request timed out, or the"
                    " server is shutting down",
                    TEMPORARILY_UNAVAILABLE,
                )
            return True

        return ["".join(c for c in stream if is_awaited()) for stream in streams]


@functools.cache
def find_server():
    """Return the uvicorn server in which MLflow runs the model, or None if it does not serve it.

    MLflow does not pass it on, and does not end a prediction whose client has disconnected.
    """
    uvicorn = sys.modules.get("uvicorn")
    return next((x for x in gc.get_objects() if uvicorn and type(x) is uvicorn.Server), None)


def _load_pyfunc(path):
    return TextGenerator(path)
