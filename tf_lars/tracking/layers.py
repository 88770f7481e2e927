"""Trust ratios, weights and updates of every layer over a run."""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tf_lars.tracking import run_pictures
from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.observation import LayerSample, Observation

_MAPS = ("trust_ratio", "update_ratio")

_DRAWING_SHARE = 0.01
"""Largest share of the time that is spent on drawing maps."""

_MOST_COLUMNS = 500


class LayerLogger(keras.callbacks.Callback):
    """Writes the samples of the layers.

    | tag | form | meaning |
    |---|---|---|
    | `layers/trust_ratio` | histogram | r of LARS by variable, 1 where it does not adapt |
    | `layers/weight_norm` | histogram | norm of the weights before the step |
    | `layers/update_ratio` | histogram | norm of the step over that of the weights |
    | `layers/gradient_norm` | histogram | norm of the global batch's gradient |
    | `layers/trust_ratio_map`, `layers/update_ratio_map` | image | variables x time, log colours |

    Histograms, and lines with the value of each variable, are written at each sample. Images are
    drawn at the end, and earlier as long as drawing takes at most 1 % of the time.

    Args:
      log: Log to write to.
      epoch_of: Function from a number of steps to the number of epochs they make.
    """

    def __init__(self, log: MetricLog, *, epoch_of: Callable[[int], float]):
        super().__init__()
        self._log = log
        self._epoch_of = epoch_of
        self._steps: list[int] = []
        self._samples: list[LayerSample] = []
        self._drawn = time.monotonic()
        self._drawing_seconds = 0.0

    def on_observation(self, observation: Observation) -> None:
        """Writes a sample, if the observation has one."""
        sample = observation.layers
        if sample is None:
            return
        step, tables = observation.step, sample.tables()
        for tag, values in tables.items():
            self._log.histogram(step, f"layers/{tag}", values.values())
        self._log.line(step, layers=tables)
        self._steps.append(step)
        self._samples.append(sample)
        if len(self._steps) > _MOST_COLUMNS:  # half of them tell as much
            del self._steps[::2], self._samples[::2]

    def on_epoch_end(self, epoch, logs=None):
        """Draws the maps, if drawing them has taken little time so far."""
        if self._drawing_seconds < _DRAWING_SHARE * (time.monotonic() - self._drawn):
            self._draw()

    def on_train_end(self, logs=None):
        """Draws the maps of the whole run."""
        self._draw()

    def _draw(self) -> None:
        if not self._samples:
            return
        self._drawn = time.monotonic()
        x = np.array([self._epoch_of(step) for step in self._steps])
        paths = self._samples[-1].paths
        for tag in _MAPS:
            columns = [getattr(sample, tag) for sample in self._samples]
            if columns[-1] is not None:
                draw = self._timed(paths, x, np.stack(columns, axis=1))
                self._log.image(self._steps[-1], f"layers/{tag}_map", draw)

    def _timed(
        self, paths: Sequence[str], x: np.ndarray, values: np.ndarray
    ) -> Callable[[], tuple[int, int, bytes]]:
        def draw() -> tuple[int, int, bytes]:
            start = time.thread_time()
            rows, _ = run_pictures.chosen_rows(paths, values)
            picture = run_pictures.heat_map_png(
                [paths[row] for row in rows], x, values[rows], "epoch"
            )
            self._drawing_seconds = 2 * (time.thread_time() - start)
            return picture

        return draw
