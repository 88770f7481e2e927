"""ImageNet input in tf_lars and other libraries: the same task, each from its native format.

Training: a random box of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3, resized to
224 x 224 (bilinear, without a low-pass filter if the library allows that), and a random flip.
Evaluation: short side 256, centre crop 224, or the equivalent crop of 7/8 of the short side.

Each factory takes a `Task` and returns an endless iterator over the numbers of images in batches;
it raises ImportError if the library is not installed. The tasks differ in these points:

* tf_lars leaves flip and normalisation to the device, and returns a flip per image.
* tf-models, "float" and keras return float32, which has four times as many bytes as uint8.
* keras has no random crop: it decodes the whole image and resizes it, with a random flip.
"""

import functools
import importlib.metadata
import itertools
import math
import pathlib
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
STEPS = 1 << 30


@dataclass(frozen=True)
class Task:
    """Input data and settings of a contender.

    Attributes:
      images: Folder with `train/<class>/*` and `val/<class>/*`, for libraries that read files.
      shards: Folder with the same images as written by `launch.prepare_imagenet`.
      small_shards: Folder with the same images, with `--short_side=256 --jpeg_quality=90`.
      training: Whether to augment and shuffle; otherwise images are centre-cropped, in order.
      cores: Number of threads or processes that the contender may use.
      batch_size: Images per batch.
      size: Side of the resulting images in pixels.
    """

    images: str
    shards: str
    small_shards: str
    training: bool
    cores: int
    batch_size: int = 64
    size: int = 224

    @property
    def folder(self):
        """Folder of the split of `images` to read."""
        return f"{self.images}/{'train' if self.training else 'val'}"

    @property
    def short_side(self):
        """Short side to resize to before the centre crop: 256 for 224."""
        return self.size * 8 // 7


def tf_lars(task, data_dir=None):
    """tf_lars.data.image_input: uint8 from TFRecord shards."""
    import tensorflow as tf

    from tf_lars.data import image_input

    context = tf.distribute.InputContext()
    arguments = data_dir or task.shards, task.batch_size, task.size
    if task.training:
        dataset = image_input.TrainingInput(*arguments).dataset(context, 0, STEPS)
        return (int(batch["image"].shape[0]) for batch in dataset)
    dataset = image_input.EvaluationInput(*arguments).dataset(context).repeat()
    return (int(batch["weight"].numpy().sum()) for batch in dataset)


def tf_lars_small(task):
    """tf_lars.data.image_input: from shards whose images have a short side of 256."""
    return tf_lars(task, task.small_shards)


def tf_models(task):
    """tf-models-official: the input of official/vision/tasks/image_classification.py."""
    from official.vision.configs import image_classification as configs
    from official.vision.tasks.image_classification import ImageClassificationTask as Peer

    split = "train" if task.training else "validation"
    data = configs.DataConfig(
        input_path=f"{task.shards}/{split}-*",
        is_training=task.training,
        global_batch_size=task.batch_size,
        # 10,000 by default, for shards of 1.28 M images.
        shuffle_buffer_size=1000,
    )
    model = configs.ImageClassificationModel(num_classes=1001, input_size=[task.size] * 2 + [3])
    config = configs.ImageClassificationTask(model=model, train_data=data, validation_data=data)
    dataset = Peer(config).build_inputs(data)
    return (int(images.shape[0]) for images, _ in dataset.repeat())


def dali(task, floats=False):
    """NVIDIA DALI on the CPU: decodes only the box, then resizes and flips."""
    from nvidia.dali import fn, pipeline_def, types

    normalised = {"dtype": types.FLOAT, "mean": MEAN, "std": STD, "output_layout": "CHW"}
    linear = {"interp_type": types.INTERP_LINEAR, "antialias": False}

    @pipeline_def(batch_size=task.batch_size, num_threads=task.cores, device_id=None, seed=0)
    def pipeline():
        encoded, labels = fn.readers.file(file_root=task.folder, random_shuffle=task.training)
        if task.training:
            image = fn.decoders.image_random_crop(
                encoded, random_area=AREA, random_aspect_ratio=ASPECT
            )
            image = fn.resize(image, size=task.size, **linear)
            flip = fn.random.coin_flip()
            if floats:
                return fn.crop_mirror_normalize(image, mirror=flip, **normalised), labels
            return fn.flip(image, horizontal=flip), labels
        image = fn.decoders.image(encoded)
        image = fn.resize(image, size=task.short_side, mode="not_smaller", **linear)
        crop = (task.size, task.size)
        if floats:
            return fn.crop_mirror_normalize(image, crop=crop, **normalised), labels
        return fn.crop(image, crop=crop), labels

    built = pipeline()
    built.build()
    return (len(built.run()[0]) for _ in itertools.count())


def torch_pil(task, floats=False):
    """torch.utils.data.DataLoader with PIL, as in torchvision's ImageFolder and transforms."""
    import numpy as np
    import PIL.Image
    import torch

    transform = functools.partial(_pil_train if task.training else _pil_eval, task)

    class Folder(torch.utils.data.Dataset):
        def __init__(self):
            self.files = list(_endless_files(task, epochs=1))

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            path, label = self.files[index]
            with PIL.Image.open(path) as image:
                pixels = torch.from_numpy(np.array(transform(image.convert("RGB"))))
            if floats:
                pixels = pixels.permute(2, 0, 1).contiguous().float()
                pixels.sub_(torch.tensor(MEAN)[:, None, None])
                pixels.div_(torch.tensor(STD)[:, None, None])
            return pixels, label

    def batches():
        loader = torch.utils.data.DataLoader(
            Folder(),
            batch_size=task.batch_size,
            shuffle=task.training,
            num_workers=task.cores,
            persistent_workers=True,
            drop_last=True,
        )
        while True:
            yield from (len(images) for images, _ in loader)

    return batches()


def _pil_train(task, image):
    import PIL.Image

    left, top, width, height = random_box(*image.size)
    box = (left, top, left + width, top + height)
    image = image.crop(box).resize((task.size, task.size), PIL.Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def _pil_eval(task, image):
    import PIL.Image

    scale = task.short_side / min(image.size)
    width, height = (round(scale * x) for x in image.size)
    image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    left, top = (width - task.size) // 2, (height - task.size) // 2
    return image.crop((left, top, left + task.size, top + task.size))


def simplejpeg_cv2(task):
    """simplejpeg and cv2: decodes the whole image and resizes the crop, in threads."""
    import cv2
    import numpy as np
    import simplejpeg

    cv2.setNumThreads(1)

    def load(file):
        path, label = file
        image = simplejpeg.decode_jpeg(pathlib.Path(path).read_bytes(), fastdct=False)
        height, width = image.shape[:2]
        if task.training:
            left, top, width, height = random_box(width, height)
        else:
            side = round(min(height, width) * task.size / task.short_side)
            left, top, width, height = (width - side) // 2, (height - side) // 2, side, side
        image = image[top : top + height, left : left + width]
        image = cv2.resize(image, (task.size, task.size), interpolation=cv2.INTER_LINEAR)
        if task.training and random.random() < 0.5:
            image = image[:, ::-1]
        return image, label

    def batches():
        files = _endless_files(task)
        with ThreadPoolExecutor(task.cores) as pool:
            # Two batches ahead, like the prefetching of the others.
            ahead = deque(pool.submit(load, next(files)) for _ in range(2 * task.batch_size))
            while True:
                images, labels = [], []
                for _ in range(task.batch_size):
                    image, label = ahead.popleft().result()
                    ahead.append(pool.submit(load, next(files)))
                    images.append(image)
                    labels.append(label)
                yield len(np.stack(images))

    return batches()


def keras_folder(task):
    """keras.utils.image_dataset_from_directory: the whole image, resized; a flip in training."""
    import keras
    import tensorflow as tf

    side = task.size if task.training else task.short_side
    margin = (side - task.size) // 2
    dataset = keras.utils.image_dataset_from_directory(
        task.folder,
        batch_size=task.batch_size,
        image_size=(side, side),
        shuffle=task.training,
        crop_to_aspect_ratio=True,
        verbose=False,
    )

    def finish(images, labels):
        if task.training:
            return tf.image.random_flip_left_right(images), labels
        return images[:, margin : margin + task.size, margin : margin + task.size], labels

    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE).repeat()
    return (int(images.shape[0]) for images, _ in dataset.prefetch(2))


def random_box(width, height):
    """Returns a random box (left, top, width, height), drawn as in torchvision's RandomResizedCrop.

    After ten unsuccessful draws, it is the largest centred box with an allowed aspect ratio.
    """
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        aspect = math.exp(random.uniform(*map(math.log, ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _endless_files(task, epochs=None):
    """Yields (path, class) of the split, reshuffled every epoch in training."""
    classes = sorted(folder.name for folder in pathlib.Path(task.folder).iterdir())
    files = [
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted(pathlib.Path(task.folder, name).iterdir())
    ]
    for _ in itertools.count() if epochs is None else range(epochs):
        if task.training:
            random.shuffle(files)
        yield from files


OURS, OURS_SMALL = "tf_lars", "tf_lars 256"
DALI, TF_MODELS = "DALI CPU uint8", "tf-models"
CONTENDERS = {
    OURS: tf_lars,
    OURS_SMALL: tf_lars_small,
    TF_MODELS: tf_models,
    DALI: dali,
    "DALI CPU float": functools.partial(dali, floats=True),
    "torch DataLoader PIL uint8": torch_pil,
    "torch DataLoader PIL float": functools.partial(torch_pil, floats=True),
    "simplejpeg cv2": simplejpeg_cv2,
    "keras from_directory": keras_folder,
}
"""Factories by name."""

PACKAGES = (
    "tensorflow",
    "keras",
    "tf-models-official",
    "nvidia-dali-cuda120",
    "torch",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
)


def versions():
    """Returns {package: version} for the installed ones among `PACKAGES`."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
