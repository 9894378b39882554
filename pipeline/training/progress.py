"""The progress of a training run: its loss curves and its best step."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """The state of a training run, except its arrays, as JSON values."""

    train_curve: list = field(default_factory=list)  # the loss of each step
    validation_curve: list = field(default_factory=list)  # [step, loss] of each evaluation
    best_step: int = 0
    snapshots: list = field(default_factory=list)  # those taken so far

    @property
    def completed_steps(self):
        return len(self.train_curve)

    def add(self, step, train_loss, validation_loss):
        """Add the losses of a step; return whether its validation loss is the lowest so far."""
        self.train_curve.append(train_loss)
        if validation_loss is None:
            return False
        lowest = min((loss for _, loss in self.validation_curve), default=math.inf)
        self.validation_curve.append([step, validation_loss])
        if validation_loss < lowest:
            self.best_step = step
        return validation_loss < lowest
