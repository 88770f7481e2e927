"""Contact sheets: images as the network sees them, with their classes."""

import math
from collections.abc import Sequence

import numpy as np

COLUMNS = 8


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


def describe(target: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Returns the names of a target's classes, with weights if there are several."""
    classes = [int(k) for k in np.argsort(-target, kind="stable") if target[k] >= 0.005]
    if len(classes) == 1:
        return [_short(class_names[classes[0]], 26)]
    return [f"{target[k]:.2f} {_short(class_names[k], 21)}" for k in classes]


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
