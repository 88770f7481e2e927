"""The archives as a source of images, compared with the same images in folders."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.paths import SHARED

pytest.importorskip("scipy", reason="the development kit's meta.mat needs SciPy")

from tests.helpers import ilsvrc2012_archives
from tf_lars.data.prepare import ilsvrc2012, preparation
from tf_lars.data.prepare.ilsvrc2012 import Ilsvrc2012Archives
from tf_lars.data.prepare.image_folder import ImageFolder
from tf_lars.data.prepare.preparation import PrepareConfig, open_source, prepare_images
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError

PHOTOS = SHARED / "data/imagenet_photos.tar"
# In the order of the development kit's numbers, which differs from that of the labels.
WORDS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
}


def picture(number):
    pixels = np.full((20 + number % 3, 30, 3), number * 7 % 256, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def train_images():
    return {
        wnid: {f"{wnid}_{n}.JPEG": picture(10 * place + n) for n in range(3, 3 + 5)}
        for place, wnid in enumerate(WORDS)
    }


def validation_images():
    return [([*WORDS][n * n % 4], picture(100 + n)) for n in range(9)] + [
        ("n01440764", picture(200)),
        ("n03126707", picture(201)),
        ("n02012849", picture(202)),
    ]


@pytest.fixture
def folder(tmp_path):
    """A folder with the three archives, for four classes."""
    ilsvrc2012_archives.write(tmp_path / "downloads", WORDS, train_images(), validation_images())
    return tmp_path / "downloads"


@pytest.fixture
def unpacked(tmp_path):
    """The same images in class folders."""
    for wnid, files in train_images().items():
        (tmp_path / "images/train" / wnid).mkdir(parents=True)
        (tmp_path / "images/val" / wnid).mkdir(parents=True)
        for name, data in files.items():
            (tmp_path / "images/train" / wnid / name).write_bytes(data)
    for number, (wnid, data) in enumerate(validation_images(), start=1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (tmp_path / "images/val" / wnid / name).write_bytes(data)
    return tmp_path / "images"


def run_here(function, tasks, num_processes, held_files=()):
    for task in tasks:
        yield function(task, lambda count: None)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(preparation, "run_tasks", run_here)
    monkeypatch.setattr(ilsvrc2012, "run_tasks", run_here)


def test_the_archives_hold_the_images_of_the_folders_with_the_same_labels(folder, unpacked):
    packed = open_source(str(folder))
    loose = open_source(str(unpacked))
    assert (type(packed), type(loose)) == (Ilsvrc2012Archives, ImageFolder)
    assert packed.name == "ILSVRC2012"
    listing, expected = packed.list_images(1), loose.list_images(1)
    assert listing.synsets == expected.synsets == tuple(sorted(WORDS))
    assert listing.class_names == tuple(WORDS[wnid] for wnid in sorted(WORDS))
    for split in ("train", "validation"):
        assert [image[:3] for image in listing.images[split]] == [
            image[:3] for image in expected.images[split]
        ]
        for image, same in zip(listing.images[split], expected.images[split], strict=True):
            assert packed.read(image) == loose.read(same)


def features(folder, split):
    for path in sorted(Path(folder).glob(f"{split}-*")):
        for record in tf.data.TFRecordDataset(str(path)):
            yield tf.train.Example.FromString(record.numpy()).features.feature


def test_the_shards_are_those_of_the_folders_but_for_the_classes_names(folder, unpacked, tmp_path):
    for source, out in ((folder, "packed"), (unpacked, "loose")):
        prepare_images(PrepareConfig(str(source), str(tmp_path / out), train_shards=3))
    info = DatasetInfo.load(tmp_path / "packed")
    assert info.name == "ILSVRC2012"
    assert info.synsets == tuple(sorted(WORDS))
    assert info.class_names[1:3] == ("crane", "kit fox, Vulpes macrotis")
    for split in ("train", "validation"):
        pairs = zip(
            features(tmp_path / "packed", split), features(tmp_path / "loose", split), strict=True
        )
        for packed, loose in pairs:
            synset = loose["image/class/synset"].bytes_list.value[0].decode()
            assert packed["image/class/text"].bytes_list.value == [WORDS[synset].encode()]
            assert {name: packed[name] for name in packed if name != "image/class/text"} == {
                name: loose[name] for name in loose if name != "image/class/text"
            }


def test_a_second_run_finds_all_done_and_new_archives_are_another_data_set(folder, tmp_path):
    config = PrepareConfig(str(folder), str(tmp_path / "out"))
    assert prepare_images(config)[1].shards_written == 2
    assert prepare_images(config)[1].shards_written == 0
    train = train_images()
    train["n03126707"]["n03126707_9.JPEG"] = picture(9)
    ilsvrc2012_archives.write(folder, WORDS, train, validation_images())
    with pytest.raises(InputError, match="of other images or settings"):
        prepare_images(config)


def test_workers_list_and_read_the_archives(folder, tmp_path, monkeypatch):
    for module in (preparation, ilsvrc2012):
        monkeypatch.undo()
        assert module.run_tasks is not run_here
    config = PrepareConfig(str(folder), str(tmp_path / "out"), num_processes=2)
    info, _ = prepare_images(config)
    assert (info.splits["train"].num_examples, info.splits["validation"].num_examples) == (20, 12)


def test_a_bad_image_in_an_archive_is_refused_by_name(folder, tmp_path):
    train = train_images()
    train["n03126707"]["n03126707_4.JPEG"] = picture(4)[:-100]
    ilsvrc2012_archives.write(folder, WORDS, train, validation_images())
    with pytest.raises(InputError, match=r"train/n03126707/n03126707_4\.JPEG .truncated"):
        prepare_images(PrepareConfig(str(folder), str(tmp_path / "out")))
    info, _ = prepare_images(PrepareConfig(str(folder), str(tmp_path / "out"), max_bad_images=1))
    assert info.splits["train"].num_examples == 19


def test_a_class_with_fewer_images_than_the_kit_tells_is_named(folder, capsys):
    listing = Ilsvrc2012Archives(str(folder)).list_images(1)
    assert "note:" not in capsys.readouterr().out
    assert len(listing.images["train"]) == 20
    train = train_images()
    del train["n01440764"]["n01440764_3.JPEG"]
    inner = {f"{wnid}.tar": ilsvrc2012_archives.tar_of(files) for wnid, files in train.items()}
    (folder / ilsvrc2012_archives.TRAIN).write_bytes(ilsvrc2012_archives.tar_of(inner))
    Ilsvrc2012Archives(str(folder)).list_images(1)
    assert "1 classes have another number" in (text := capsys.readouterr().out)
    assert "n01440764 has 4 instead of 5" in text


def rewrite_train(folder, change):
    inner = {
        f"{wnid}.tar": ilsvrc2012_archives.tar_of(files) for wnid, files in train_images().items()
    }
    change(inner)
    (folder / ilsvrc2012_archives.TRAIN).write_bytes(ilsvrc2012_archives.tar_of(inner))


def rewrite_validation(folder, change):
    images = {
        f"ILSVRC2012_val_{number:08d}.JPEG": data
        for number, (_, data) in enumerate(validation_images(), start=1)
    }
    change(images)
    (folder / ilsvrc2012_archives.VALIDATION).write_bytes(ilsvrc2012_archives.tar_of(images))


def cut(folder, archive, length):
    path = folder / archive
    path.write_bytes(path.read_bytes()[:length])


def damage_header(folder, archive, place):
    """Spoils the header before a member."""
    path = folder / archive
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[place].offset
    data = bytearray(path.read_bytes())
    data[offset + 150] ^= 1
    path.write_bytes(data)


CUT = "cut short, damaged or something else"
WRONG = {
    "no training archive": (
        lambda d: (d / ilsvrc2012_archives.TRAIN).unlink(),
        f"without {ilsvrc2012_archives.TRAIN}",
    ),
    "no devkit": (
        lambda d: (d / ilsvrc2012_archives.DEVKIT).unlink(),
        f"without {ilsvrc2012_archives.DEVKIT}",
    ),
    "train is validation": (
        lambda d: (d / ilsvrc2012_archives.TRAIN).write_bytes(
            (d / ilsvrc2012_archives.VALIDATION).read_bytes()
        ),
        "must hold one <wnid>.tar .* with 'ILSVRC2012_val_00000001.JPEG'",
    ),
    "validation is train": (
        lambda d: (d / ilsvrc2012_archives.VALIDATION).write_bytes(
            (d / ilsvrc2012_archives.TRAIN).read_bytes()
        ),
        "must hold only ILSVRC2012_val_<number>.JPEG.* with 'n02119789.tar'",
    ),
    "train is no tar": (
        lambda d: (d / ilsvrc2012_archives.TRAIN).write_bytes(b"<html>" * 400),
        CUT,
    ),
    "validation is empty": (lambda d: (d / ilsvrc2012_archives.VALIDATION).write_bytes(b""), CUT),
    "train cut in an image": (lambda d: cut(d, ilsvrc2012_archives.TRAIN, 30000), CUT),
    "validation cut in an image": (lambda d: cut(d, ilsvrc2012_archives.VALIDATION, 7300), CUT),
    "validation cut in a header": (
        lambda d: cut(d, ilsvrc2012_archives.VALIDATION, 1024 * 3 + 100),
        CUT,
    ),
    "validation with a damaged header": (
        lambda d: damage_header(d, ilsvrc2012_archives.VALIDATION, 5),
        CUT,
    ),
    "train with a damaged header": (lambda d: damage_header(d, ilsvrc2012_archives.TRAIN, 2), CUT),
    "class archive cut": (
        lambda d: rewrite_train(
            d, lambda t: t.update({"n01440764.tar": t["n01440764.tar"][:1400]})
        ),
        f"n01440764.tar in .*{CUT}",
    ),
    "class archive without images": (
        lambda d: rewrite_train(
            d, lambda t: t.update({"n01440764.tar": ilsvrc2012_archives.tar_of({})})
        ),
        "n01440764.tar in .* with no images",
    ),
    "class missing": (
        lambda d: rewrite_train(d, lambda t: t.pop("n03126707.tar")),
        "without 1 of 4 class archives: n03126707",
    ),
    "class unknown": (
        lambda d: rewrite_train(d, lambda t: t.update({"n09999999.tar": b""})),
        "with 'n09999999.tar'",
    ),
    "validation image missing": (
        lambda d: rewrite_validation(d, lambda v: v.popitem()),
        "with 11 images, and 12 labels",
    ),
    "validation image numbered 0": (
        lambda d: rewrite_validation(
            d, lambda v: v.update({"ILSVRC2012_val_00000000.JPEG": v.popitem()[1]})
        ),
        "numbered from 1",
    ),
    "devkit cut": (
        lambda d: cut(d, ilsvrc2012_archives.DEVKIT, 300),
        "development kit must be an archive",
    ),
    "devkit is no archive": (
        lambda d: (d / ilsvrc2012_archives.DEVKIT).write_bytes(b"no"),
        "development kit must be an archive",
    ),
    "devkit without labels": (
        lambda d: (d / ilsvrc2012_archives.DEVKIT).write_bytes(
            ilsvrc2012_archives.tar_of({"a/data/meta.mat": b""})
        ),
        "development kit must be an archive .*meta.mat",
    ),
    "ground truth out of range": (
        lambda d: (d / ilsvrc2012_archives.DEVKIT).write_bytes(
            ilsvrc2012_archives.devkit([(wnid, text, 5) for wnid, text in WORDS.items()], [1, 2, 5])
        ),
        "KeyError: 5",
    ),
    "folders next to the archives": (lambda d: (d / "train").mkdir(), "with both"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_archives_are_refused_in_one_sentence_and_write_nothing(folder, tmp_path, kind):
    change, message = WRONG[kind]
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        prepare_images(PrepareConfig(str(folder), str(tmp_path / "out")))
    assert "Received:" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_without_scipy_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"extra `imagenet`: pip install -e '\.\[imagenet\]'"):
        Ilsvrc2012Archives(str(folder)).list_images(1)


def test_an_archive_that_shrinks_is_noticed(folder):
    source = Ilsvrc2012Archives(str(folder))
    image = source.list_images(1).images["validation"][0]
    cut(folder, ilsvrc2012_archives.VALIDATION, image.offset + 10)
    with pytest.raises(InputError, match=f"ends before the image {image.path}"):
        source.read(image)


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/imagenet_photos.tar")
def test_real_photos_come_out_of_the_archives_byte_for_byte(tmp_path):
    photos = {}
    with tarfile.open(PHOTOS) as tar:
        for member in tar:
            if member.isfile() and len(photos) < 20:
                _, wnid, name = member.name.split("/")
                photos[wnid] = (name, tar.extractfile(member).read())
    ilsvrc2012_archives.write(
        tmp_path / "downloads",
        {wnid: wnid for wnid in photos},
        {wnid: {name: data} for wnid, (name, data) in photos.items()},
        [(wnid, data) for wnid, (_, data) in photos.items()],
    )
    prepare_images(PrepareConfig(str(tmp_path / "downloads"), str(tmp_path / "out")))
    for split in ("train", "validation"):
        written = list(features(tmp_path / "out", split))
        assert len(written) == len(photos)
        for feature in written:
            wnid = feature["image/class/synset"].bytes_list.value[0].decode()
            assert feature["image/encoded"].bytes_list.value == [photos[wnid][1]]
            assert feature["image/class/label"].int64_list.value == [sorted(photos).index(wnid) + 1]
