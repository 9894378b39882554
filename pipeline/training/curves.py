"""The plot of the loss curves."""

from matplotlib.figure import Figure

from baregpt.files import atomic_write


def plot_curves(path, train_curve, validation_curve):
    """Plot both loss curves, step -> nats per character, and mark the best step."""
    best = min(validation_curve, key=validation_curve.__getitem__)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    (line,) = axes.plot(*zip(*train_curve.items()), label="training batch", linewidth=0.8)
    line.set_alpha(0.4)
    axes.plot(*zip(*validation_curve.items()), "o-", label="validation", markersize=4)
    label = f"best: {validation_curve[best]:.3f} at step {best:,}"
    point = best, validation_curve[best]
    axes.annotate(label, point, (0, 8), textcoords="offset points", ha="right", va="bottom")
    axes.set(xlabel="step", ylabel="loss (nats per character)", title="Loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
