"""Writes images, or the embedded digits, as TFRecord shards; checks what was written.

python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR
python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR --short_side=256
python -m launch.prepare_imagenet --dataset=digits --output_dir=DIR
python -m launch.prepare_imagenet --verify --output_dir=DIR

FOLDER holds train/<class>/* and val/<class>/*, or the archives of ILSVRC2012 as downloaded:
ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz. An interrupted
run continues when it is started again, and ends with the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from launch import app
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError

if TYPE_CHECKING:
    from tf_lars.data.records import DatasetInfo

FLAGS = flags.FLAGS

_INPUT_DIR_FLAGS = (
    "train_shards",
    "validation_shards",
    "num_processes",
    "max_bad_images",
    "overwrite",
    "short_side",
    "jpeg_quality",
)


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
    flags.DEFINE_bool("verify", False, "Only check the SHA-256 of every shard in --output_dir.")


def main() -> int:
    """Runs the program; returns its exit code."""
    _check_flags()
    try:
        if FLAGS.verify:
            _verify()
        else:
            _prepare()
    except KeyboardInterrupt:
        print("interrupted; start again to continue", flush=True)
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _check_flags() -> None:
    if not FLAGS.output_dir:
        raise InputError("--output_dir is required. Received: none. Name the folder of the shards.")
    sources = [name for name in ("input_dir", "dataset", "verify") if FLAGS[name].value]
    if len(sources) != 1:
        received = " and ".join(f"--{name}" for name in sources) or "none"
        raise InputError(
            "Exactly one of --input_dir, --dataset and --verify is needed. "
            f"Received: {received}. See --help."
        )
    for name in _INPUT_DIR_FLAGS:
        if sources != ["input_dir"] and FLAGS[name].present:
            raise InputError(
                f"--{name} goes with --input_dir only. Received: --{name} with --{sources[0]}. "
                "Leave it out."
            )


def _verify() -> None:
    from tf_lars.data import records

    info = records.verify(FLAGS.output_dir)
    shards = sum(len(split.shards) for split in info.splits.values())
    print(f"{FLAGS.output_dir}: every one of {shards} shards has the SHA-256 recorded")


def _prepare() -> None:
    from tf_lars.data import digits
    from tf_lars.data.jpeg import EncodingSettings
    from tf_lars.data.prepare import PrepareConfig, prepare_images

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
    _print_table(info)


def _print_table(info: DatasetInfo) -> None:
    row = "{:<11}{:>11}{:>8}{:>11}{:>12}{:>9}{:>9}"
    print(f"{FLAGS.output_dir}: {info.name}, {info.num_classes} classes")
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
                f"{counts['resized']['count']:,}",
                f"{counts['refused']['count']:,}",
            )
        )


if __name__ == "__main__":
    define()
    app.run(main)
