"""The DVC stages around `baregpt`, one module each; params.yaml and MLflow in one place each."""

import signal
import sys

if (
    sys.argv[0] == "-m"
):  # a stage is being imported: until it runs, let Ctrl-C end it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
