"""Writes images, or the embedded digits, as TFRecord shards, and checks shards.

python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR
python -m launch.prepare_imagenet --input_dir=FOLDER --output_dir=DIR --short_side=256
python -m launch.prepare_imagenet --dataset=digits --output_dir=DIR
python -m launch.prepare_imagenet --verify --output_dir=DIR
python -m launch.prepare_imagenet --describe=DIR

FOLDER holds train/<class>/* and val/<class>/*, or the archives of ILSVRC2012 as downloaded:
ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz. An interrupted
run continues when it is started again and produces the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from launch.cli import app, flags
from tf_lars.data.records.example import MOST_PIXELS
from tf_lars.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from tf_lars.setting import Rule, check, one_of, setting, within

if TYPE_CHECKING:
    from tf_lars.data.records.dataset_info import DatasetInfo

SOURCE, OUTPUT, ENCODING, READING, CLASSES = (
    "Source, exactly one of these",
    "Output",
    "Encoding",
    "Reading",
    "Classes, for --describe",
)
"""Groups of settings in `--help`."""

_SOURCES = "sources"
MOST_SHARDS = 99_999
"""Largest number of shards whose names have five digits."""


def _option(doc: str, default: Any, *sources: str, **uses: Any) -> Any:
    """Returns a field for a setting that may only be given together with certain sources.

    Args:
      doc: Documentation of the setting.
      default: Default of the setting.
      *sources: Names of the sources.
      **uses: Other attributes of `tf_lars.setting.Setting`.
    """
    metadata = setting(doc, **uses).metadata
    return dataclasses.field(default=default, metadata={**metadata, _SOURCES: sources})


@dataclasses.dataclass(frozen=True)
class PreparationSettings:
    """Settings of a preparation; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    input_dir: str = setting(
        "Folder with train/<class>/* and val/<class>/* (or validation/), or with the three "
        "archives of ILSVRC2012.",
        "",
        group=SOURCE,
    )
    dataset: str | None = setting(
        "Embedded data set: digits.",
        None,
        rule=Rule("digits", lambda name: name == "digits"),
        group=SOURCE,
    )
    describe: str = setting(
        "Local folder with shards of imagenet_to_gcs.py, tensorflow-datasets or a program with the "
        "same features, for which to write dataset.json. Training does so automatically, unless "
        "the labels need --label_base or --num_classes.",
        "",
        group=SOURCE,
    )
    verify: bool = setting(
        "Check every record and the SHA-256 of every shard in --output_dir and write nothing.",
        False,
        group=SOURCE,
    )
    output_dir: str = _option(
        "Folder for the shards, local or remote (gs://; s3:// where tensorflow-io is installed).",
        "",
        "input_dir",
        "dataset",
        "verify",
        group=OUTPUT,
    )
    train_shards: int | None = _option(
        "Number of training shards. By default, shards of about 128 MiB.",
        None,
        "input_dir",
        rule=within(1, MOST_SHARDS),
        group=OUTPUT,
    )
    validation_shards: int | None = _option(
        "Number of validation shards. By default, shards of about 128 MiB.",
        None,
        "input_dir",
        rule=within(1, MOST_SHARDS),
        group=OUTPUT,
    )
    overwrite: bool = _option(
        "Replace a finished data set in --output_dir, or an unfinished one of other images.",
        False,
        "input_dir",
        group=OUTPUT,
    )
    short_side: int | None = _option(
        "Resize larger images to this short side, in pixels. By default, no image is resized.",
        None,
        "input_dir",
        rule=within(1, 65_535),
        group=ENCODING,
    )
    jpeg_quality: int = _option(
        "Quality of re-encoded images: resized and turned ones, PNG, CMYK and the like.",
        95,
        "input_dir",
        rule=within(1, 100),
        group=ENCODING,
    )
    exif: str = _option(
        "apply turns images as their EXIF orientation says and re-encodes them. ignore leaves them "
        "as they are, as is usual with ImageNet. Both count such images.",
        "ignore",
        "input_dir",
        rule=one_of("apply", "ignore"),
        group=ENCODING,
    )
    max_image_pixels: int = _option(
        "Largest number of pixels of an image, by its header. Images with more are refused "
        "undecoded. The default is the decoders' own limit.",
        MOST_PIXELS,
        "input_dir",
        rule=within(1, MOST_PIXELS),
        group=ENCODING,
    )
    max_bad_images: int = _option(
        "Number of files or records without a decodable image that may be skipped.",
        0,
        "input_dir",
        "describe",
        rule=within(0, 1_000_000_000),
        group=READING,
    )
    num_processes: int | None = _option(
        "Number of worker processes. By default, one per available core.",
        None,
        "input_dir",
        "describe",
        rule=within(1, 1024),
        group=READING,
    )
    label_base: int | None = _option(
        "Label of the first class, 0 or 1. By default 0 for tensorflow-datasets and where the "
        "label 0 occurs, otherwise 1.",
        None,
        "describe",
        rule=Rule("0 or 1", lambda label: label in (0, 1)),
        group=CLASSES,
    )
    num_classes: int | None = _option(
        "Number of classes. By default, the number of named labels, or else up to the highest "
        "label.",
        None,
        "describe",
        rule=within(1, 1_000_000),
        group=CLASSES,
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags of this program."""
    flags.define(PreparationSettings)


def main() -> int:
    """Runs the program; returns its exit code."""
    settings = PreparationSettings(**flags.values(PreparationSettings))
    run = {"input_dir": _prepare, "dataset": _digits, "describe": _describe, "verify": _verify}
    source = _source(settings)
    try:
        run[source](settings)
    except KeyboardInterrupt:
        print("interrupted; start again to continue", flush=True)
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _source(settings: PreparationSettings) -> str:
    """Returns the name of the source after checking that the other flags fit it."""
    fields = dataclasses.fields(settings)
    sources_of = {f.name: f.metadata[_SOURCES] for f in fields if _SOURCES in f.metadata}
    sources = [f.name for f in fields if f.name not in sources_of]
    wanted = [name for name in sources if getattr(settings, name)]
    if len(wanted) != 1:
        raise InputError(
            f"Exactly one of {_as_flags(sources, ', ')} is needed. Received: "
            f"{_as_flags(wanted, ' and ') or 'none'}. See --help."
        )
    (source,) = wanted
    for name in flags.given(sources_of):
        if source not in sources_of[name]:
            raise InputError(
                f"--{name} goes with {_as_flags(sources_of[name], ' or ')} only. Received: "
                f"--{name} with --{source}. Leave it out."
            )
    if source in sources_of["output_dir"] and not settings.output_dir:
        raise InputError("--output_dir is required. Received: none. Name the folder of the shards.")
    return source


def _as_flags(names: Iterable[str], separator: str) -> str:
    return separator.join(f"--{name}" for name in names)


def _prepare(settings: PreparationSettings) -> None:
    from tf_lars.data.prepare.encode import EncodingSettings
    from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images

    info, report = prepare_images(
        PrepareConfig(
            settings.input_dir,
            settings.output_dir,
            train_shards=settings.train_shards,
            validation_shards=settings.validation_shards,
            num_processes=settings.num_processes,
            max_bad_images=settings.max_bad_images,
            overwrite=settings.overwrite,
            encoding=EncodingSettings(
                settings.short_side,
                settings.jpeg_quality,
                settings.exif,
                settings.max_image_pixels,
            ),
        )
    )
    print(
        f"{report.shards_written} shards written and {report.shards_kept} kept; "
        f"{report.images_written:,} images in {report.seconds:.1f} s"
    )
    _print_table(info, settings.output_dir)


def _digits(settings: PreparationSettings) -> None:
    from tf_lars.data.prepare import digits

    _print_table(digits.prepare(settings.output_dir), settings.output_dir)


def _describe(settings: PreparationSettings) -> None:
    from tf_lars.data.prepare.describe import describe

    info = describe(
        settings.describe,
        label_base=settings.label_base,
        num_classes=settings.num_classes,
        max_bad_images=settings.max_bad_images,
        num_processes=settings.num_processes,
    )
    _print_table(info, settings.describe)
    print(f"labels from {info.labels[0]} to {info.labels[-1]}")


def _verify(settings: PreparationSettings) -> None:
    from tf_lars.data.prepare import verify

    info = verify.verify(settings.output_dir)
    shards = sum(len(split.shards) for split in info.splits.values())
    print(f"{settings.output_dir}: all {shards} shards and their records are as recorded")


def _print_table(info: DatasetInfo, folder: str) -> None:
    outcomes = ("reencoded", "resized", "oriented", "refused")
    row = "{:<11}{:>11}{:>8}{:>11}{:>12}{:>9}{:>10}{:>9}"
    print(f"{folder}: {info.name}, {info.num_classes} classes")
    heads = ("split", "examples", "shards", "MB", "re-encoded", "resized", "oriented", "refused")
    print(row.format(*heads))
    for name, split in info.splits.items():
        # Other programs, and earlier versions, do not count everything.
        counts = (info.report[name].get(outcome, {}).get("count", 0) for outcome in outcomes)
        print(
            row.format(
                name,
                f"{split.num_examples:,}",
                f"{len(split.shards):,}",
                f"{split.num_bytes / 1e6:,.1f}",
                *(f"{count:,}" for count in counts),
            )
        )


if __name__ == "__main__":
    define()
    app.run(main)
