"""Check the exercises in order and stop at the first that is not correct."""

import argparse
import sys

from exercises import training
from exercises.checks import EXERCISES
from exercises.exercise import Problem

COUNT = len(EXERCISES)


def number_or_train(text):
    if text == "train":
        return text
    if text.isdecimal() and 1 <= int(text) <= COUNT:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be 1 to {COUNT} or train, got {text}")


def check(exercises):
    """Print the results up to the first exercise that is not correct; return that or None."""
    for exercise in exercises:
        try:
            problem = exercise.check(exercise.load())
        except Problem as error:
            problem = [str(error)]
        title = f"{exercise.number:2} {exercise.name:<25}"
        if problem:
            print(f"{title}not yet")
            for sentence in problem:
                print(f"   {sentence}")
            return exercise
        print(f"{title}correct")
    return None


def main(arguments=None):
    """Return the exit code: 0 if all that was asked for is correct, 130 after Ctrl-C."""
    try:
        return run(arguments)
    except (OSError, ValueError) as error:  # from training
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def run(arguments):
    parser = argparse.ArgumentParser(prog="python -m exercises", description=__doc__)
    add = parser.add_argument
    add("exercise", nargs="?", type=number_or_train, help=f"1 to {COUNT}, or train (default: all)")
    add("--hint", nargs="?", type=int, const=1, choices=(1, 2, 3), help="print hint 1, 2 or 3")
    args = parser.parse_args(arguments)
    if args.hint:
        if not isinstance(args.exercise, int):
            parser.error(f"--hint must follow the number of an exercise, 1 to {COUNT}")
        print(EXERCISES[args.exercise - 1].hints[args.hint - 1])
        if args.hint < 3:
            print(f"The next hint: python -m exercises {args.exercise} --hint {args.hint + 1}")
        return 0
    one = isinstance(args.exercise, int)
    unfinished = check([EXERCISES[args.exercise - 1]] if one else EXERCISES)
    if unfinished:
        print(f"   For a hint: python -m exercises {unfinished.number} --hint")
        return 1
    if args.exercise == "train":
        return training.main({exercise.function: exercise.load() for exercise in EXERCISES})
    if not one:
        print("All solutions are correct. Train the GPT that you wrote: python -m exercises train")
    return 0


if __name__ == "__main__":
    sys.exit(main())
