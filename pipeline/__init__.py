"""The DVC pipeline around `baregpt`.

Every file here is a command, `python -m pipeline.NAME`. The stages of dvc.yaml are prepare, vocab,
train, sample and plot_attention; check, evaluate, export, register, deliver, explore and ui are run
by hand. The folders hold what the commands share.
"""

import hashlib
import importlib.util
import signal
import sys
from pathlib import Path

PACKAGES = (
    "dvc", "filelock", "matplotlib", "mlflow", "numpy", "psutil", "pydantic", "threadpoolctl",
    "tqdm", "yaml",
)  # fmt: skip

if sys.argv[0] == "-m":  # a command is about to be imported
    # Ctrl-C during its imports ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # DVC runs the first `python` on PATH, which may not be the one that runs DVC.
    if missing := [name for name in PACKAGES if not importlib.util.find_spec(name)]:
        sys.exit(
            f"error: {sys.executable} does not have {', '.join(missing)}; activate the environment"
            " of this checkout with `source .venv/bin/activate`"
        )

# MD5 of the code as it is imported: the files may have changed by the time a stage looks at them.
CODE = {
    path.as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for folder in ("baregpt", "pipeline")
    for path in Path(folder).rglob("*.py")
}
