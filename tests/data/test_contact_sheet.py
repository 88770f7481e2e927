import numpy as np
import pytest
from PIL import Image

from tf_lars.data import contact_sheet

NAMES = ["tench", "a very long name of a class of images", "cock"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([1.0, 0.0, 0.0], ["tench"]),
        ([0.0, 1.0, 0.0], ["a very long name of a cla…"]),
        ([0.3, 0.0, 0.7], ["0.70 cock", "0.30 tench"]),
        ([0.998, 0.0, 0.002], ["tench"]),
        ([0.5, 0.5, 0.0], ["0.50 tench", "0.50 a very long name of …"]),
    ],
)
def test_targets_are_described_by_their_classes(target, expected):
    assert contact_sheet.describe(np.array(target), NAMES) == expected


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_every_image_is_on_the_sheet(count, tmp_path):
    """Each image has a different colour, which must appear in the picture."""
    colours = np.array([[10 + 20 * i, 255 - 20 * i, 128] for i in range(count)])
    images = np.broadcast_to(colours[:, None, None, :], (count, 32, 32, 3)).astype(np.float32)
    targets = np.tile(np.array([[0.4, 0.0, 0.6]]), (count, 1))
    path = tmp_path / "sheet.png"
    contact_sheet.draw(images + 0.2, targets, NAMES, str(path), "title")
    picture = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in colours:
        assert (picture == colour).all(1).sum() > 32 * 32
