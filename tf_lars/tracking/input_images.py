"""The first training batch as the network sees it."""

import io
from collections.abc import Callable

import keras
import numpy as np

from tf_lars.data import contact_sheet
from tf_lars.errors import InputError
from tf_lars.tracking.metric_log import MetricLog

TAG = "input/images"


class InputImages(keras.callbacks.Callback):
    """Writes a contact sheet of the first training batch.

    | tag | meaning | unit | when |
    |---|---|---|---|
    | `input/images` | rows of eight images, enlarged if small | | start of a fresh run |

    Images that cannot be read or drawn cost one warning of the log.

    Args:
      log: Log to write to; an earlier callback must have begun it in `on_train_begin`.
      images: Function that returns the images, uint8 `[n, height, width, 3]`; called in the thread
        of the log.
      most: Maximum number of images to draw.
    """

    def __init__(self, log: MetricLog, images: Callable[[], np.ndarray], most: int = 64):
        super().__init__()
        self._log = log
        self._images = images
        self._most = most
        self._done = False

    def on_train_batch_begin(self, batch, logs=None):
        """Has the images drawn, if no step has been taken."""
        if not self._done and batch == 0:
            self._log.image(0, TAG, self._draw)
        self._done = True

    def _draw(self) -> tuple[int, int, bytes]:
        from PIL import Image

        try:
            sheet = contact_sheet.tiled(np.asarray(self._images())[: self._most])
        except Exception as error:
            raise InputError(
                f"Input images must be readable, for TensorBoard's {TAG}. Received: {error}."
            ) from error
        png = io.BytesIO()
        Image.fromarray(sheet).save(png, "PNG")
        return sheet.shape[1], sheet.shape[0], png.getvalue()
