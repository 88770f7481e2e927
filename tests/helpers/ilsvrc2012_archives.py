"""The three archives of ILSVRC2012 in small, made of images that the caller gives."""

import io
import tarfile

import numpy as np
import scipy.io

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def tar_of(files, mode="w"):
    """A tar of {name: content}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def meta_mat(classes):
    """The development kit's `meta.mat`: the classes [(wnid, words, images)], and a node above."""
    rows = [(number, *row, 0) for number, row in enumerate(classes, start=1)]
    rows.append((len(rows) + 1, "n00001740", "entity", 0, len(classes)))
    fields = ("ILSVRC2012_ID", "WNID", "words", "num_train_images", "num_children")
    synsets = np.empty((len(rows), 1), [(name, object) for name in fields])
    for place, row in enumerate(rows):
        synsets[place, 0] = row
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


def devkit(classes, truth):
    """The development kit; `truth` holds the classes' own numbers."""
    root = "ILSVRC2012_devkit_t12"
    return tar_of(
        {
            f"{root}/readme.txt": b"",
            f"{root}/data/meta.mat": meta_mat(classes),
            f"{root}/data/ILSVRC2012_validation_ground_truth.txt": b"".join(
                b"%d\n" % number for number in truth
            ),
        },
        "w:gz",
    )


def write(folder, words, train, validation):
    """Writes the archives.

    Args:
        folder: Where to.
        words: {wnid: words}, in the order of the development kit's numbers.
        train: {wnid: {file name: content}}.
        validation: [(wnid, content)], in the order of the images' numbers.
    """
    numbers = {wnid: number for number, wnid in enumerate(words, start=1)}
    classes = [(wnid, text, len(train[wnid])) for wnid, text in words.items()]
    folder.mkdir(exist_ok=True)
    (folder / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(f) for wnid, f in train.items()}))
    images = {f"ILSVRC2012_val_{n:08d}.JPEG": d for n, (_, d) in enumerate(validation, start=1)}
    (folder / VALIDATION).write_bytes(tar_of(images))
    (folder / DEVKIT).write_bytes(devkit(classes, [numbers[wnid] for wnid, _ in validation]))
