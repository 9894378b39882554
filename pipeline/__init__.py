"""The DVC pipeline around `baregpt`.

Every file here is a command, `python -m pipeline.NAME`. The stages of dvc.yaml are prepare, vocab,
train, sample and plot_attention; check, evaluate, export, register, deliver and explore are run by
hand. The folders hold what the commands share.
"""

import hashlib
import signal
import sys
from pathlib import Path

# Ctrl-C during the imports of a command ends it without a traceback.
if sys.argv[0] == "-m":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# MD5 of the code as it is imported: the files may have changed by the time a stage looks at them.
CODE = {
    path.as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for folder in ("baregpt", "pipeline")
    for path in Path(folder).rglob("*.py")
}
