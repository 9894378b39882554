"""The DVC stages around `baregpt`, what is run by hand, and what serves them.

Stages, in the order of dvc.yaml: prepare, vocab, train, sample, plot_attention.
By hand, `python -m pipeline.NAME`: params (a check), evaluate, register, export, deliver.
Helpers of all stages: stage (how they end, and their files), inputs (what they read), params.
Helpers of train: checkpoint, journal, curves; ranks and launch, for many processes.
MLflow: record (what it is to know), outbox (what waits for it), tracking (how it is told),
store (where it is), served_model (what it serves).
"""

import hashlib
import signal
import sys
from pathlib import Path

# While a stage is being imported, let Ctrl-C end it without a traceback.
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Checksums of the code as it is imported: by the time a stage begins, somebody may have changed it.
CODE = {
    path.as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for folder in ("baregpt", "pipeline")
    for path in Path(folder).rglob("*.py")
}
