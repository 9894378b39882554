"""The inputs of a stage, as DVC records them."""

import hashlib
import re
from pathlib import Path

import pipeline
from pipeline.common.paths import PARAMS
from pipeline.common.yaml_file import flatten, read_yaml


def checksum(path):
    """Return the MD5 of a file, as DVC records it, or None if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return None


class Inputs:
    """The inputs that dvc.yaml names for a stage: the values of its params, and the MD5 of its data
    and code.

    DVC records them after the stage has ended. If an input changed while the stage ran, DVC would
    record a value that did not produce the outputs, so each stage checks its inputs when it ends.
    """

    def __init__(self, stage, code=pipeline.CODE):
        self.stage, self.definition = stage, read_yaml("dvc.yaml")["stages"][stage]
        params = flatten(read_yaml(PARAMS))  # not checked here: load_params reports errors
        sections = tuple(f"{name}." for name in self.definition["params"])
        self.values = {
            name: value for name, value in params.items() if f"{name}.".startswith(sections)
        }
        self.files = {
            re.sub(r"\$\{(.+)\}", lambda match: str(params.get(match[1])), dep)
            for dep in self.definition["deps"]
        }
        self.values |= {path: code.get(path) or checksum(path) for path in sorted(self.files)}

    def describe_differences(self, other):
        """Return how these inputs differ from others (name -> value), or "" if they do not."""
        changes = [
            name if "/" in name or name in self.files else f"{name} ({theirs}, now {ours})"
            for name in sorted({*self.values, *other})
            if (theirs := other.get(name)) != (ours := self.values.get(name))
        ]
        return ", ".join(changes[:3]) + ", ..." * (len(changes) > 3)

    def describe_changes(self):
        """Return what has changed on disk since these inputs were read, or "" if nothing has."""
        try:
            return Inputs(self.stage, code={}).describe_differences(self.values)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            # one of the two files may be half written
            return f"{PARAMS} or dvc.yaml ({' '.join(str(error).split())})"

    def check(self):
        """Raise ValueError if an input has changed on disk since these were read."""
        if changes := self.describe_changes():
            raise ValueError(
                f"{changes} changed while stage `{self.stage}` ran, so its outputs were discarded;"
                " run the stage again; to keep the earlier inputs, revert the change first"
            )

    def outputs(self):
        """Return the paths of the stage's outputs."""
        # an entry is a path, or the path -> how DVC stores it
        outputs = [*self.definition["outs"], *self.definition.get("metrics", [])]
        return [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in outputs]
