"""Draws the figures of docs/large_batch.md, prints its tables and updates them in the page.

    python -m benchmarks.large_batch_page

The trials are those of `launch.large_batch_study`, the communication that of
`benchmarks.communication_by_batch` and of the planner. Tables are placed between
`<!-- table: NAME -->` and `<!-- end -->`.
"""

import csv
import dataclasses
import json
import pathlib

from absl import app, flags

from benchmarks.scaling_pictures import knl
from benchmarks.tables import fill, markdown
from tf_lars import planner
from tf_lars.planner import published_results
from tf_lars.study import result_table, study_picture
from tf_lars.study.result_log import ResultLog
from tf_lars.study.study_presets import PRESETS, StudySettings
from tf_lars.study.trials import Results

FLAGS = flags.FLAGS

AUGMENTED, OTHER_MACHINE = "tuned with augmentation", "digits on another machine"
ACCURACY_ONLY = (AUGMENTED, OTHER_MACHINE)
"""Studies of which the page shows the table of accuracies, without figures."""
STUDIES = {
    "digits": ("large_batch_digits", PRESETS["digits"]),
    OTHER_MACHINE: ("large_batch_digits_epyc", PRESETS["digits"]),
    AUGMENTED: (
        "augmented_digits",
        dataclasses.replace(
            PRESETS["digits"],
            augmentation="pad_crop",
            other_augmentation="",
            batch_sizes=(1024,),
            baseline_batch_size=1024,
            seeds=(0, 1),
            few_seeds=1,
        ),
    ),
    # The part of the preset that has been run.
    "imagenette64": (
        "large_batch_imagenette64",
        dataclasses.replace(
            PRESETS["imagenette64"],
            batch_sizes=(2048,),
            equal_steps_batch_sizes=(),
            other_augmentation="",
        ),
    ),
}
"""File of results, without extension, and settings of each study, by its name."""

CLUSTERS = (("KNL", 512), ("KNL", 2048), ("P100", 256), ("P100", 1024))
"""Clusters of published runs: You et al. (KNL), Goyal et al. and Akiba et al. (P100), all 2017."""

CLUSTER_BATCHES = tuple(2**i for i in range(10, 16))


def studies(results: pathlib.Path) -> dict[str, tuple[StudySettings, Results]]:
    """Returns settings and results of the studies that have begun, by name."""
    found = {}
    for name, (stem, settings) in STUDIES.items():
        path = results / f"{stem}.csv"
        if path.exists():
            with open(path.with_suffix(".settings.json"), encoding="utf-8") as file:
                data = json.load(file)["data"]
            log = ResultLog(path, settings.of_all_trials() | {"data": data})
            found[name] = (settings, log.results)
    return found


def tables(results: pathlib.Path) -> dict[str, str]:
    """Returns the page's tables in Markdown, by name."""
    found = {}
    for name, (settings, trials) in studies(results).items():
        of_study = result_table.tables(settings, trials, settings.target_points)
        for kind, table in zip(("accuracy", "rates", "augmentation"), of_study, strict=False):
            if name in ACCURACY_ONLY and kind != "accuracy":
                continue
            found[f"{name}, {kind}"] = f"{table.title}\n\n{markdown(table.header, table.rows)}"
    if measured := _measured(results):
        found["communication"] = markdown(
            ["workers", "batch", "steps per epoch", "MB sent per worker and epoch", "s per epoch"],
            [
                [
                    row["workers"],
                    f"{int(row['global_batch_size']):,}",
                    row["steps_per_epoch"],
                    row["megabytes_per_epoch"],
                    row["fastest_seconds_per_epoch"],
                ]
                for row in measured
            ],
        )
    found["clusters"] = markdown(
        ["devices", *(f"{batch:,}" for batch in CLUSTER_BATCHES)],
        [
            [f"{devices:,} {name}"]
            + [""] * (len(CLUSTER_BATCHES) - len(_plans(name, devices)))
            + [f"{plan.minutes:.3g}" for plan in _plans(name, devices)]
            for name, devices in CLUSTERS
        ],
    )
    return found


def _plans(name: str, devices: int) -> list[planner.Plan]:
    """Returns the plans of 90 epochs of ResNet-50 for each batch."""
    device = knl() if name == "KNL" else planner.device(name)
    return [
        planner.predict(accelerator=device, devices=devices, global_batch_size=batch, epochs=90)
        for batch in CLUSTER_BATCHES
        if batch >= devices
    ]


def _measured(results: pathlib.Path) -> list[dict]:
    """Returns the rows of `benchmarks.communication_by_batch`; none before it has run."""
    path = results / "communication_by_batch.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(results: pathlib.Path, docs: pathlib.Path) -> list[str]:
    """Draws all figures; returns their paths."""
    paths = []
    for name, (settings, trials) in studies(results).items():
        if name not in ACCURACY_ONLY:
            title = study_picture.title(settings, name)
            stem = str(docs / f"large_batch_{name}")
            paths += study_picture.draw(settings, trials, stem, title, settings.target_points)
    paths.append(str(docs / "large_batch_communication.png"))
    communication(_measured(results), paths[-1])
    return paths


def communication(measured: list[dict], path: str) -> None:
    """Draws messages and time against the batch, measured here and planned for clusters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 3 if measured else 1
    figure = Figure(figsize=(max(7.5, 4.6 * panels), 4.4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    *ours, minutes = figure.subplots(1, panels, squeeze=False)[0]
    if measured:
        _draw_measured(*ours, measured)
    _draw_clusters(minutes)
    for axes in (*ours, minutes):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("global batch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    for axes in (*ours[:1], minutes):
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    figure.savefig(path)


def _draw_measured(sent, seconds, measured: list[dict]) -> None:
    for workers, colour in ((1, "grey"), (2, "tab:blue"), (4, "tab:orange")):
        own = [row for row in measured if int(row["workers"]) == workers]
        batches = [int(row["global_batch_size"]) for row in own]
        label = f"{workers} worker{'s'[: workers > 1]}"
        style = {"color": colour, "marker": "o", "ms": 4, "label": label}
        if workers > 1:
            sent.plot(batches, [float(row["megabytes_per_epoch"]) for row in own], **style)
        seconds.plot(batches, [float(row["fastest_seconds_per_epoch"]) for row in own], **style)
    parameters = int(measured[0]["parameters"]) / 1e6
    sent.set_title(f"MB sent per worker and epoch, {parameters:.1f} M parameters", fontsize=10)
    sent.set_yscale("log", base=2)
    seconds.set_title("seconds per epoch, measured on two cores", fontsize=10)
    seconds.set_ylim(bottom=0)


def _draw_clusters(axes) -> None:
    for name, devices in CLUSTERS:
        plans = _plans(name, devices)
        batches = [plan.global_batch_size for plan in plans]
        label = f"{devices:,} {name}, planned"
        axes.plot(batches, [plan.minutes for plan in plans], label=label)
        for one in published_results():
            if (one.accelerator, one.devices, one.model, one.epochs) == (
                name,
                devices,
                "resnet50",
                90,
            ):
                axes.plot(one.global_batch_size, one.minutes, "k*", ms=8)
    axes.plot([], [], "k*", ms=8, label="published")
    axes.set_title("minutes for 90 epochs of ResNet-50", fontsize=10)
    axes.set_yscale("log", base=2)


def main(_):
    """Draws all figures, and prints and updates all tables."""
    results, docs = pathlib.Path(FLAGS.results), pathlib.Path(FLAGS.docs)
    for path in pictures(results, docs):
        print(path)
    found = tables(results)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    page = docs / "large_batch.md"
    page.write_text(fill(page.read_text(), found))


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_string("docs", "docs", "Folder of large_batch.md and its figures.")
    flags.DEFINE_string("results", "benchmarks/results", "Folder with the results.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
