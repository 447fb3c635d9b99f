"""The loss curve of a job, drawn from its trace."""

from pathlib import Path

from matplotlib.figure import Figure

from tasks.job.trace import Trace


def draw_loss_curve(trace: Trace, path: Path) -> Path:
    """Write a PNG with the training loss of every step and the held-out losses; return its path."""
    rows = list(trace.rows())
    training = [(row.step, row.metrics["loss"]) for row in rows if "loss" in row.metrics]
    held_out = [(row.step, row.metrics["eval_loss"]) for row in rows if "eval_loss" in row.metrics]
    # A figure of its own, not pyplot's global state: this runs in a worker without a display.
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*training, strict=True), linewidth=1, label="training loss")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), marker="o", linewidth=1, label="held-out loss")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title="Loss")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return path
