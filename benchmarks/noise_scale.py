"""Draws the gradient noise scale over finished runs, against the batch in use.

    python -m benchmarks.noise_scale runs/digits runs/imagenette --output=docs/noise_scale.png

The runs are folders of launchers; their `metrics.jsonl` is read. Prints the noise scale at a tenth,
a half and the end of each run.
"""

import os
import pathlib

from absl import app, flags

from launch.run.layout import METRICS
from launch.run.load import settings_of_run
from tf_lars.tracking import metric_log

FLAGS = flags.FLAGS

SCALE, BATCH = "noise/scale", "noise/batch"


def curve(folder):
    """Returns the epochs at which the noise scale of a run is known, the scales, and the batch."""
    lines = [line for line in metric_log.read(os.path.join(folder, METRICS)) if line.get(SCALE)]
    return (
        [line["epoch"] for line in lines],
        [line[SCALE] for line in lines],
        [line[BATCH] for line in lines],
    )


def draw(folders, path):
    """Draws one panel for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(folders), 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, folder in zip(
        figure.subplots(1, len(folders), squeeze=False)[0], folders, strict=True
    ):
        epochs, scales, batches = curve(folder)
        settings = settings_of_run(folder)
        data = pathlib.Path(settings.data_dir).name
        axes.plot(epochs, scales, color="tab:blue", label="noise scale B_simple")
        axes.plot(epochs, batches, color="tab:orange", linestyle="--", label="batch in use")
        axes.set(yscale="log", xlabel="epoch", ylabel="examples")
        axes.set_title(f"{data}: {settings.model}, {settings.optimizer}, batch {batches[-1]:,}")
        axes.grid(alpha=0.3)
        axes.legend()
        told = [f"{scales[round(share * (len(scales) - 1))]:,.0f}" for share in (0.1, 0.5, 1)]
        print(f"{folder}: noise scale {told[0]} at 10 %, {told[1]} at 50 %, {told[2]} at the end")
    figure.savefig(path)


def main(arguments):
    """Runs the program."""
    draw(arguments[1:], FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", "docs/noise_scale.png", "Path of the picture.")
    app.run(main)
