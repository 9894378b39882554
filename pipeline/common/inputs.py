"""What a stage reads, as DVC records it."""

import hashlib
from pathlib import Path

import pipeline
from pipeline.common.params import PARAMS, flat, read_yaml


def checksum(path):
    """The md5 of a file, by which DVC knows it; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return None


class Inputs:
    """What a stage reads, by dvc.yaml: the values of its params, and checksums of data and code.

    DVC records all of this when a stage has ended. So a stage that takes minutes asks in the end
    whether it is still what it was in the beginning: else the wrong params would be recorded.
    """

    def __init__(self, stage, code=pipeline.CODE):
        self.stage, self.described = stage, read_yaml("dvc.yaml")["stages"][stage]
        params = flat(read_yaml(PARAMS))  # as it stands: what is wrong in it, `load_params` says
        sections = tuple(f"{name}." for name in self.described["params"])
        its_own = [name for name in params if f"{name}.".startswith(sections)]
        self.values = {name: params[name] for name in its_own}
        for dep in self.described["deps"]:
            path = dep.replace("${corpus.path}", str(params.get("corpus.path")))
            self.values[path] = code.get(path) or checksum(path)

    def differences(self, former):
        """How these inputs differ from former ones, name -> value: in words, '' if they do not."""
        changes = [
            name if "/" in name else f"{name} ({was}, now {now})"
            for name in sorted({*self.values, *former})
            if (was := former.get(name)) != (now := self.values.get(name))
        ]
        return ", ".join(changes[:3]) + ", ..." * (len(changes) > 3)

    def changes(self):
        """How what the stage reads differs from what it was; '' if it does not."""
        try:
            return Inputs(self.stage, code={}).differences(self.values)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{PARAMS} or dvc.yaml ({' '.join(str(error).split())})"  # being written, say

    def check(self):
        """ValueError if anything that the stage reads has changed."""
        if changes := self.changes():
            kept = f"changed while `{self.stage}` ran, so its results are not kept"
            raise ValueError(f"{changes} {kept}: run again, as it is now or as it was")

    def outputs(self):
        """The files that the stage makes."""
        return [Path(path) for path in self.described["outs"] + self.described.get("metrics", [])]
