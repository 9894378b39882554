"""Reading YAML as DVC does."""

import re
from pathlib import Path

import yaml


class Loader(yaml.SafeLoader):
    """YAML 1.2, as DVC reads and writes it: `No` is text, `1e-3` a number, and a duplicate key is
    an error.

    Integers are decimal. Anything else that YAML 1.1 would read as a number or a boolean stays
    text.
    """

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in keys[:i]:
                problem = f'found duplicate key "{key.value}"'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] not in SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for name, pattern in SCALARS.items():
    tag = f"tag:yaml.org,2002:{name}"
    Loader.add_implicit_resolver(tag, re.compile(f"^({pattern})$"), list("tTfF-+.0123456789"))


def read_yaml(path):
    """Return the contents of a YAML file. Raises ValueError if it is not valid."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except UnicodeDecodeError as error:
        where = f"{error.reason} at position {error.start}"
        raise ValueError(f"{path} must be UTF-8 text ({where})") from None
    except yaml.YAMLError as error:
        reason = " ".join((getattr(error, "problem", None) or str(error)).split())
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is not valid YAML ({reason}{line})") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid YAML (it is nested too deeply)") from None


def flatten(values, prefix=""):
    """Flatten nested mappings: {"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    items = [flatten(value, f"{prefix}.{name}".strip(".")) for name, value in values.items()]
    return {name: value for item in items for name, value in item.items()}
