"""Contact sheets: images as the network sees them, with their classes."""

import math
from collections.abc import Sequence

import numpy as np

COLUMNS = 8
SMALLEST_TILE = 64
"""Images with smaller sides are enlarged by a whole factor in `tiled`, so that they can be seen."""


def draw(
    images: np.ndarray, targets: np.ndarray, class_names: Sequence[str], path: str, title: str
) -> None:
    """Draws images and the classes of their targets to a PNG file.

    Args:
      images: Images `[examples, size, size, 3]`, colours from 0 to 255.
      targets: Weights of the classes, `[examples, classes]`; those of at least 0.5 % are named.
      class_names: Name of each class.
      path: Path of the PNG file.
      title: Title above the images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.75 * columns, 2.1 * rows + 0.4), dpi=128, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    tiles = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in tiles:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    captions = [describe(target, class_names) for target in targets]
    lines = max(map(len, captions))
    for axes, image, caption in zip(tiles, images, captions, strict=False):
        axes.imshow(np.clip(np.round(image), 0, 255).astype(np.uint8))
        filled = [*caption, *[""] * (lines - len(caption))]  # so that all rows have the same height
        axes.set_xlabel("\n".join(filled), fontsize=8, linespacing=1.3)
    figure.savefig(path)


def tiled(images: np.ndarray) -> np.ndarray:
    """Returns images in rows on white, without captions, each pixel as it is.

    Args:
      images: Images `[examples, height, width, 3]`, colours from 0 to 255; at least one.

    Returns:
      One image, uint8 `[height, width, 3]`.
    """
    factor = max(1, math.ceil(SMALLEST_TILE / max(images.shape[1:3])))
    pixels = np.clip(np.round(images), 0, 255).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = min(COLUMNS, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    margin = 2
    sheet = np.full(
        (rows * columns, pixels.shape[1] + margin, pixels.shape[2] + margin, 3), 255, np.uint8
    )
    sheet[: len(pixels), :-margin, :-margin] = pixels
    sheet = sheet.reshape(rows, columns, *sheet.shape[1:]).swapaxes(1, 2)
    return sheet.reshape(rows * sheet.shape[1], -1, 3)[:-margin, :-margin]


def describe(target: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Returns the names of a target's classes, with weights if there are several."""
    classes = [int(k) for k in np.argsort(-target, kind="stable") if target[k] >= 0.005]
    if len(classes) == 1:
        return [_short(class_names[classes[0]], 26)]
    return [f"{target[k]:.2f} {_short(class_names[k], 21)}" for k in classes]


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
