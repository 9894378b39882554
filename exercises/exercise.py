"""An exercise, and the check that says what is wrong with a solution."""

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from exercises.gradients import TOLERANCE, relative_error

FOLDER = Path(__file__).parent


class Problem(Exception):
    """Something that is wrong with a solution, in a sentence."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its file asks for a function; `exercises/checks` contains the rest.

    Parameters
    ----------
    number, name : those in the name of its file, such as exercises/05_layer_norm.py
    answer : the same function, implemented with baregpt's own functions
    returns : the names of the arrays that the function returns
    cases : yields (arguments, expected arrays)
    reference : where the expected arrays come from
    mistakes : dict from a function that makes a common mistake to a message that describes it
    hints : three, from a first idea to the last step
    in_place : whether the function may change its arguments
    """

    number: int
    name: str
    answer: Callable
    returns: tuple
    cases: Callable
    reference: str
    mistakes: dict
    hints: tuple
    in_place: bool = False

    @property
    def path(self):
        return FOLDER / f"{self.number:02}_{self.name}.py"

    @property
    def file(self):
        return f"exercises/{self.path.name}"

    @property
    def function(self):
        return self.answer.__name__

    @cached_property
    def _all_cases(self):
        return list(self.cases())

    def load(self):
        """Return the function from the exercise's file. Raises Problem if there is none."""
        try:
            module = importlib.import_module(f"exercises.{self.path.stem}")
        except Exception as error:  # the file may hold anything
            raise Problem(f"{self.file} cannot be imported: {self._explain(error)}.") from None
        if not callable(function := getattr(module, self.function, None)):
            raise Problem(f"{self.file} must define the function {self.function}.")
        return function

    def check(self, function):
        """Return None if the function is correct, else the sentences that say what is wrong."""
        for arguments, expected in self._all_cases:
            used = deepcopy(arguments)
            try:
                arrays = self._arrays(_call(function, used))
            except Problem as problem:
                return [str(problem)]
            except Exception as error:
                sentence = f"{self._describe_call(arguments)} raises {self._explain(error)}."
                return [
                    sentence,
                    *(self._find_mistake(arguments, error, {}, {}) or _explain_shapes(error)),
                ]
            named = dict(zip(self.returns, expected))
            wrong = {name: a for name, a in arrays.items() if not _equal(a, named[name])}
            if wrong:
                sentences = [
                    f"{self._describe_call(arguments)}: {self._describe_wrong(wrong, named)}."
                ]
                mistake = self._find_mistake(arguments, None, arrays, wrong)
                return sentences + (mistake or _compare(wrong, named, self.reference))
            if not self.in_place and (name := self._changed_argument(arguments, used)):
                return [f"{self.function} must not change its argument {name}: copy it first."]
        return None

    def _arrays(self, returned):
        """Return name -> returned array. Raises Problem if they are not arrays."""
        if returned is None:
            raise Problem(f"Not written yet: complete {self.function} in {self.file}.")
        count, names = len(self.returns), _join(self.returns)
        if count > 1 and not (isinstance(returned, (tuple, list)) and len(returned) == count):
            many = isinstance(returned, (tuple, list))
            seen = f"{len(returned)} values" if many else "one value"
            raise Problem(f"{self.function} must return {names}, but it returns {seen}.")
        values = returned if count > 1 else [returned]
        for name, value in zip(self.returns, values):
            if value is None or value is Ellipsis:
                raise Problem(f"{name} is missing: {self.function} must return {names}.")
            if np.asarray(value).dtype.kind not in "iuf":
                is_array = isinstance(value, np.ndarray)
                kind = f"of dtype {value.dtype}" if is_array else f"of type {type(value).__name__}"
                raise Problem(f"{name} must be an array of real numbers, but it is {kind}.")
        return {name: np.asarray(value) for name, value in zip(self.returns, values)}

    def _describe_call(self, arguments):
        """The name of the function, with the numbers among its arguments."""
        named = inspect.signature(self.answer).bind(*arguments).arguments.items()
        numbers = [f"{name} = {x}" for name, x in named if isinstance(x, (int, float))]
        return f"{self.function} with {_join(numbers)}" if numbers else self.function

    def _changed_argument(self, before, after):
        """The name of the first array that the function has changed, or None."""
        for name, a, b in zip(inspect.signature(self.answer).parameters, before, after):
            if isinstance(a, np.ndarray) and not np.array_equal(a, b):
                return name
        return None

    def _explain(self, error):
        """Describe an exception in a phrase, with the line of the exercise that raised it."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == self.path]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = f" on line {line} of {self.file}" if line else ""
        reason = str(error.msg if isinstance(error, SyntaxError) else error)
        if reason.startswith("matmul:"):
            reason = "the shapes in a matrix product do not match"
        return f"{type(error).__name__}{where}: {' '.join(reason.split()).rstrip('.')}"

    def _describe_wrong(self, wrong, expected):
        """A phrase on each wrong array, and on those that are correct."""
        parts = []
        for name, array in wrong.items():
            if array.shape != expected[name].shape:
                shapes = f"shape {array.shape} instead of {expected[name].shape}"
                parts.append(f"{name} has {shapes}")
            elif not np.isfinite(array).all():
                parts.append(f"{name} contains NaN or infinity")
            elif array.dtype.kind == "f":
                error = relative_error(array, expected[name])
                parts.append(
                    f"{name} is wrong (relative error {error:.2g} against {self.reference})"
                )
            else:
                count = (array != expected[name]).sum()
                parts.append(f"{name} is wrong in {count} of {array.size} elements")
        if correct := [name for name in self.returns if name not in wrong]:
            parts.append(f"{_join(correct)} {'is' if len(correct) == 1 else 'are'} correct")
        return ", ".join(parts)

    def _find_mistake(self, arguments, error, arrays, wrong):
        """The message for the common mistake with the same result, in a list; empty if unknown.

        A mistake matches if it gives at least one of the same wrong arrays, or raises the same type
        of exception. If several match, the one that gives most of the arrays is named.
        """
        best, most = [], 0
        for mistake, sentence in self.mistakes.items():
            try:
                by_mistake = self._arrays(_call(mistake, deepcopy(arguments)))
            except Exception as raised:
                score = int(type(raised) is type(error))
            else:
                same = [name for name in arrays if _equal(arrays[name], by_mistake[name])]
                score = len(same) if wrong.keys() & same else 0
            if score > most:
                best, most = [sentence], score
        return best


def _call(function, arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


def _join(names):
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _equal(a, b):
    """Whether two arrays are equal up to rounding; NaN and infinity equal themselves."""
    if a.shape != b.shape:
        return False
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    return relative_error(a[finite], b[finite]) < TOLERANCE


def _explain_shapes(error):
    """A sentence on shapes that do not match, in a list; empty for other exceptions."""
    text = str(error)
    if match := re.search(r"matmul.* \(size (\d+) is different from (\d+)\)", text):
        rows, columns = match.groups()
        return [f"In a matrix product, the first factor has {columns} columns and the second has "
                f"{rows} rows, but these numbers must be equal."]  # fmt: skip
    shapes = [match.rstrip(",").split(",") for match in re.findall(r"\(([\d,]+)\)", text)]
    if "broadcast" in text and len(shapes) == 2 and max(shapes, key=len)[:-1] in shapes:
        return ["A sum or mean over the last axis has removed that axis: pass `keepdims=True`, so "
                "that the result broadcasts."]  # fmt: skip
    return []


def _compare(wrong, expected, reference):
    """A sentence on how the first wrong array differs, in a list; empty if its shape does."""
    name, array = next(iter(wrong.items()))
    truth = expected[name]
    if array.ndim == 2 and _equal(array.T, truth):
        return [f"{name} is the transpose of the correct result."]
    if array.shape != truth.shape or not np.isfinite(array).all():
        return []
    factor = np.vdot(array, truth) / np.vdot(truth, truth)
    if factor and _equal(array, factor * truth):
        return [f"{name} is the correct result times {factor:.4g}."]
    at = np.unravel_index(np.abs(array - truth).argmax(), array.shape)
    index = ", ".join(map(str, at))
    return [f"{name}[{index}] is {array[at]:.4g}, but {truth[at]:.4g} according to {reference}."]
