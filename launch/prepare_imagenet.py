"""Writes images, or the embedded digits, as TFRecord shards; checks what was written.

python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR
python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR --short_side=256
python -m launch.prepare_imagenet --dataset=digits --output_dir=DIR
python -m launch.prepare_imagenet --verify --output_dir=DIR
python -m launch.prepare_imagenet --describe=DIR

FOLDER holds train/<class>/* and val/<class>/*, or the archives of ILSVRC2012 as downloaded:
ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz. An interrupted
run continues when it is started again, and ends with the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from launch.cli import app
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from tf_lars.data.records.dataset_info import DatasetInfo

FLAGS = flags.FLAGS

_FLAGS_OF_SOURCE = {
    "input_dir": (
        "output_dir",
        "train_shards",
        "validation_shards",
        "num_processes",
        "max_bad_images",
        "overwrite",
        "short_side",
        "jpeg_quality",
    ),
    "dataset": ("output_dir",),
    "describe": ("label_base", "num_classes", "max_bad_images", "num_processes"),
    "verify": ("output_dir",),
}


def define() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "input_dir",
        None,
        "Folder with train/<class>/* and val/<class>/* (or validation/), or with the three "
        "archives of ILSVRC2012.",
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder for the shards, local or remote (gs://; s3:// where tensorflow-io is installed).",
    )
    flags.DEFINE_enum("dataset", None, ["digits"], "Embedded data set, instead of --input_dir.")
    flags.DEFINE_integer(
        "train_shards", None, "Training shards; by default about 128 MiB each.", lower_bound=1
    )
    flags.DEFINE_integer(
        "validation_shards",
        None,
        "Validation shards; by default about 128 MiB each.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "num_processes", None, "Worker processes; by default one per available core.", lower_bound=1
    )
    flags.DEFINE_integer(
        "max_bad_images", 0, "Files that may be skipped because they are no image.", lower_bound=0
    )
    flags.DEFINE_integer(
        "short_side",
        None,
        "Resize larger images to this short side, in pixels; by default none is resized.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "jpeg_quality",
        95,
        "Quality of the images that are encoded again: resized ones, PNG, CMYK and the like.",
        lower_bound=1,
        upper_bound=100,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace a finished data set in --output_dir, or an unfinished one of other images.",
    )
    flags.DEFINE_string(
        "describe",
        None,
        "Local folder with shards of imagenet_to_gcs.py or tensorflow-datasets, to write their "
        "dataset.json. Training does so by itself, unless labels need the next two flags.",
    )
    flags.DEFINE_integer(
        "label_base",
        None,
        "With --describe: label of the first class. By default 0 for tensorflow-datasets and where "
        "the label 0 occurs, otherwise 1.",
        lower_bound=0,
        upper_bound=1,
    )
    flags.DEFINE_integer(
        "num_classes",
        None,
        "With --describe: by default as many as labels are named or occur.",
        lower_bound=1,
    )
    flags.DEFINE_bool("verify", False, "Only check the SHA-256 of every shard in --output_dir.")


def main() -> int:
    """Runs the program; returns its exit code."""
    _check_flags()
    try:
        if FLAGS.describe:
            _describe()
        elif FLAGS.verify:
            _verify()
        else:
            _prepare()
    except KeyboardInterrupt:
        print("interrupted; start again to continue", flush=True)
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _check_flags() -> None:
    sources = [name for name in _FLAGS_OF_SOURCE if FLAGS[name].value]
    if len(sources) != 1:
        received = " and ".join(f"--{name}" for name in sources) or "none"
        raise InputError(
            f"Exactly one of {', '.join(f'--{name}' for name in _FLAGS_OF_SOURCE)} is needed. "
            f"Received: {received}. See --help."
        )
    (source,) = sources
    for name in dict.fromkeys(name for names in _FLAGS_OF_SOURCE.values() for name in names):
        if FLAGS[name].present and name not in _FLAGS_OF_SOURCE[source]:
            owners = [f"--{one}" for one, names in _FLAGS_OF_SOURCE.items() if name in names]
            raise InputError(
                f"--{name} goes with {' or '.join(owners)} only. Received: --{name} with "
                f"--{source}. Leave it out."
            )
    if "output_dir" in _FLAGS_OF_SOURCE[source] and not FLAGS.output_dir:
        raise InputError("--output_dir is required. Received: none. Name the folder of the shards.")


def _describe() -> None:
    from tf_lars.data.prepare.describe import describe

    info = describe(
        FLAGS.describe,
        label_base=FLAGS.label_base,
        num_classes=FLAGS.num_classes,
        max_bad_images=FLAGS.max_bad_images,
        num_processes=FLAGS.num_processes,
    )
    _print_table(info, FLAGS.describe)
    print(f"labels from {info.labels[0]} to {info.labels[-1]}")


def _verify() -> None:
    from tf_lars.data.prepare import verify

    info = verify.verify(FLAGS.output_dir)
    shards = sum(len(split.shards) for split in info.splits.values())
    print(f"{FLAGS.output_dir}: every one of {shards} shards has the SHA-256 recorded")


def _prepare() -> None:
    from tf_lars.data.prepare import digits
    from tf_lars.data.prepare.encode import EncodingSettings
    from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images

    if FLAGS.dataset == "digits":
        info = digits.prepare(FLAGS.output_dir)
    else:
        info, report = prepare_images(
            PrepareConfig(
                FLAGS.input_dir,
                FLAGS.output_dir,
                train_shards=FLAGS.train_shards,
                validation_shards=FLAGS.validation_shards,
                num_processes=FLAGS.num_processes,
                max_bad_images=FLAGS.max_bad_images,
                overwrite=FLAGS.overwrite,
                encoding=EncodingSettings(FLAGS.short_side, FLAGS.jpeg_quality),
            )
        )
        print(
            f"{report.shards_written} shards written and {report.shards_kept} kept; "
            f"{report.images_written:,} images in {report.seconds:.1f} s"
        )
    _print_table(info, FLAGS.output_dir)


def _print_table(info: DatasetInfo, folder: str) -> None:
    row = "{:<11}{:>11}{:>8}{:>11}{:>12}{:>9}{:>9}"
    print(f"{folder}: {info.name}, {info.num_classes} classes")
    print(row.format("split", "examples", "shards", "MB", "re-encoded", "resized", "refused"))
    for name, split in info.splits.items():
        counts = info.report[name]
        print(
            row.format(
                name,
                f"{split.num_examples:,}",
                f"{len(split.shards):,}",
                f"{split.num_bytes / 1e6:,.1f}",
                f"{counts['reencoded']['count']:,}",
                f"{counts.get('resized', {'count': 0})['count']:,}",
                f"{counts['refused']['count']:,}",
            )
        )


if __name__ == "__main__":
    define()
    app.run(main)
