import pytest

from tf_lars.data.prepare import sharding
from tf_lars.data.prepare.image_folder import ImageFolder
from tf_lars.data.prepare.sharding import make_plan
from tf_lars.errors import InputError

CLASSES = ("apple", "pear", "quince")


@pytest.fixture
def images(tmp_path):
    """20 training and 7 validation files in each of three classes; nothing opens them here."""
    folder = tmp_path / "images"
    for split, count in (("train", 20), ("val", 7)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                (folder / split / name / f"{number:02d}.JPEG").write_bytes(b"x" * 100)
    return folder


def plan_of(images, seed=0, **num_shards):
    return make_plan(ImageFolder(str(images)).list_images(1), seed, num_shards)


def paths(plan, split):
    return [[file.path for file in shard.files] for shard in plan.splits[split]]


def test_every_file_is_planned_once_with_its_class_counted_from_1(images):
    plan = plan_of(images, train=4, validation=2)
    files = [file for shard in plan.shards for file in shard.files]
    assert plan.class_names == CLASSES
    assert plan.num_images == len(files) == 81
    assert {file.path for file in files} == {
        str(path.relative_to(images)) for path in images.rglob("*.JPEG")
    }
    for file in files:
        assert CLASSES[file.label - 1] == file.path.split("/")[1]
        assert file.num_bytes == 100


def test_training_files_are_shuffled_by_the_seed_and_dealt_evenly(images):
    shards = paths(plan_of(images, train=7), "train")
    assert [len(shard) for shard in shards] == [9, 9, 9, 9, 8, 8, 8]
    for shard in shards:
        assert len({path.split("/")[1] for path in shard}) == 3
        assert shard != sorted(shard)
    assert paths(plan_of(images, train=7), "train") == shards
    assert paths(plan_of(images, train=7, seed=1), "train") != shards


def test_validation_files_are_dealt_in_sorted_order(images):
    first, second = paths(plan_of(images, validation=2), "validation")
    everything = sorted(first + second)
    assert (first, second) == (everything[::2], everything[1::2])


def test_shards_hold_about_the_same_bytes_and_are_never_more_than_the_files(images, monkeypatch):
    assert [shard.name for shard in plan_of(images).shards] == [
        "train-00000-of-00001",
        "validation-00000-of-00001",
    ]
    assert len(plan_of(images, train=99).splits["train"]) == 60
    monkeypatch.setattr(sharding, "BYTES_PER_SHARD", 1000)
    assert [len(shards) for shards in plan_of(images).splits.values()] == [6, 2]


def test_a_folder_named_validation_and_hidden_files_change_nothing(images):
    plan = plan_of(images)
    (images / "train" / ".DS_Store").write_bytes(b"x")
    (images / "train" / "pear" / "._00.JPEG").write_bytes(b"x")
    assert plan_of(images) == plan
    (images / "val").rename(images / "validation")
    assert plan_of(images).num_images == plan.num_images


def test_the_fingerprint_changes_with_files_sizes_and_settings(images):
    plan = plan_of(images)
    fingerprints = {plan.fingerprint(1), plan.fingerprint(2), plan_of(images, 1).fingerprint(1)}
    fingerprints.add(plan_of(images, train=2).fingerprint(1))
    (images / "val" / "pear" / "03.JPEG").write_bytes(b"x" * 101)
    fingerprints.add(plan_of(images).fingerprint(1))
    (images / "val" / "pear" / "03.JPEG").rename(images / "val" / "pear" / "99.JPEG")
    fingerprints.add(plan_of(images).fingerprint(1))
    assert len(fingerprints) == 6
    assert plan.fingerprint(1) in fingerprints


def move(old, new):
    return lambda images: (images / old).rename(images / new)


def make_folders(*names):
    return lambda images: [(images / name).mkdir() for name in names]


def without_classes(images):
    (images / "val").rename(images.parent / "away")
    (images / "val").mkdir()


LAYOUTS = {
    "no folder": (move("", "../elsewhere"), "which is not a folder"),
    "no val": (move("val", "test"), "with no val or validation"),
    "no train": (move("train", "training"), "with no train"),
    "val twice": (make_folders("validation"), "with val and validation"),
    "class in train only": (make_folders("train/fig"), "1 in train only: fig"),
    "class in val only": (make_folders("val/fig"), "1 in validation only: fig"),
    "no classes": (without_classes, "val' without a class folder"),
    "flat": (
        lambda images: (images / "val/1.JPEG").touch(),
        "val/1.JPEG' next to the class folders",
    ),
    "too deep": (make_folders("train/pear/images"), "train/pear/images', which is not a file"),
    "empty class": (make_folders("train/fig", "val/fig"), "train/fig', which is empty"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_another_layout_is_refused_in_one_sentence(images, kind):
    change, message = LAYOUTS[kind]
    change(images)
    with pytest.raises(InputError, match=message) as error:
        plan_of(images)
    assert "Received:" in str(error.value)
