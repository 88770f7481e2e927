"""Images per second of CPU time of ImageNet input, compared with other libraries in one run.

    python -m benchmarks.input_pipeline

Each contender runs in a separate process, on one core and on two, and they take turns: a few
batches each, in a new order every round, so that other load on the machine affects all equally.
Results are compared by CPU time, which includes threads and child processes; wall time depends on
other load and shows how the work scales over cores. Libraries that are not installed are skipped
with a message; `make bench-input` installs all of them. Writes `input_pipeline.csv`, a chart, and
the machine and versions as text.

The photographs are not in the repository: `--images` is a tar file or a folder of class folders, by
default `../shared/data/imagenet_photos.tar`, next to the checkout. They are repeated to `--records`
images (about 0.6 MB of memory for each): this measures decoding, not storage. The tasks of the
contenders and their differences are described in `benchmarks/input_peers.py`. Requires Linux.
"""

import contextlib
import os
import pathlib
import platform
import shutil
import statistics
import tempfile

from absl import app, flags

from benchmarks import input_peers as peers
from benchmarks import interleaved, tables
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images

FLAGS = flags.FLAGS

# Turns that are not measured, in which tf.data tunes its number of threads.
WARM_UP = 2


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    cores = sorted({int(n) for n in FLAGS.cores})
    available = len(os.sched_getaffinity(0))
    if cores[-1] > available:
        raise app.UsageError(f"--cores must be at most {available}. Received: {FLAGS.cores}.")
    where = f"{tables.machine()}\nPython {platform.python_version()}, {peers.versions()}\n"
    print(where)
    rows = []
    with tempfile.TemporaryDirectory(dir=FLAGS.work_dir) as folder:
        data = prepare(pathlib.Path(FLAGS.images), pathlib.Path(folder), FLAGS.records)
        for mode in FLAGS.modes:
            rows += table(mode, measure(data, mode, cores))
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input_pipeline.txt").write_text(where)
    tables.write(rows, folder / "input_pipeline.csv")
    chart(rows, folder / "input_pipeline.png")


def prepare(source, folder, records):
    """Writes the images in every contender's format.

    Args:
        source: Tar file or folder with `<class>/<image>`, at any depth.
        folder: Output folder.
        records: Number of images, for which those of `source` are repeated.

    Returns:
        {argument of `peers.Task`: path}.
    """
    if not source.exists():
        raise app.UsageError(f"--images must exist. Received: {str(source)!r}.")
    if source.is_file():
        shutil.unpack_archive(source, folder / "source")
        source = folder / "source"
    found = sorted(path for path in source.rglob("*") if path.is_file())
    for split in ("train", "val"):
        for number in range(records):
            path = found[number % len(found)]
            target = folder / "images" / split / path.parent.name / f"{number:05}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    paths = {name: str(folder / name) for name in ("images", "shards", "small_shards")}
    small = EncodingSettings(short_side=256, jpeg_quality=90)
    prepare_images(PrepareConfig(paths["images"], paths["shards"]))
    prepare_images(PrepareConfig(paths["images"], paths["small_shards"], encoding=small))
    return paths


def measure(data, mode, cores):
    """Returns {(contender, cores): [interleaved.Turn, one per round]}."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in FLAGS.contenders:
            for number in cores:
                task = peers.Task(
                    **data, training=mode == "train", cores=number, batch_size=FLAGS.batch_size
                )
                process = interleaved.Process(peers.CONTENDERS[name], task)
                stack.callback(process.close)
                try:
                    process.wait_until_ready()
                except interleaved.LeftOut as error:
                    print(f"{mode}, skipped: {name} ({error})")
                    break
                processes[name, number] = process
        return interleaved.measure(
            processes, FLAGS.batches, FLAGS.rounds, warm_up=WARM_UP, name=mode
        )


def table(mode, times):
    """Returns a row per contender and number of cores."""
    rows = []
    for (name, cores), measured in times.items():
        cpu = [1e3 * turn.cpu / turn.images for turn in measured]
        wall = [1e3 * turn.wall / turn.images for turn in measured]
        rows.append(
            {
                "mode": mode,
                "pipeline": name,
                "cores": cores,
                "cpu_ms_median": round(statistics.median(cpu), 3),
                "cpu_ms_min": round(min(cpu), 3),
                "images_per_cpu_s": round(1e3 / statistics.median(cpu), 1),
                "wall_images_per_s": round(1e3 / statistics.median(wall), 1),
            }
        )
    by_key = {(row["pipeline"], row["cores"]): row for row in rows}
    for row in rows:
        for column, name in (("dali", peers.DALI), ("tf_models", peers.TF_MODELS)):
            peer = by_key.get((name, row["cores"]))
            times_as_fast = peer["cpu_ms_median"] / row["cpu_ms_median"] if peer else None
            row[f"times_{column}"] = round(times_as_fast, 2) if peer else ""
        one = by_key.get((row["pipeline"], 1))
        row["wall_speedup"] = (
            round(row["wall_images_per_s"] / one["wall_images_per_s"], 2) if one else ""
        )
        row["rounds"] = len(times[row["pipeline"], row["cores"]])
    return sorted(rows, key=lambda row: (row["cores"], row["cpu_ms_median"]))


def chart(rows, path):
    """Draws the rates on the fewest cores, and the speed-ups on the most."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in rows))
    fewest, most = min(row["cores"] for row in rows), max(row["cores"] for row in rows)
    panels = [[r for r in rows if r["mode"] == mode and r["cores"] == fewest] for mode in modes]
    speedups = {(r["mode"], r["pipeline"]): r["wall_speedup"] for r in rows if r["cores"] == most}
    height = 0.4 * max(map(len, panels)) + 1.4
    figure = Figure(figsize=(7 * len(modes), height), layout="constrained")
    all_axes = figure.subplots(1, len(modes), squeeze=False)[0]
    for axes, mode, panel in zip(all_axes, modes, panels, strict=True):
        names = [row["pipeline"] for row in panel]
        rates = [row["images_per_cpu_s"] for row in panel]
        colours = ["tab:red" if name.startswith("tf_lars") else "tab:blue" for name in names]
        labels = [f"{rate:.0f}" for rate in rates]
        if most > fewest == 1:
            labels = [
                f"{label}  (x {speedups[mode, name]:.2f} on {most} cores)"
                for label, name in zip(labels, names, strict=True)
            ]
        axes.bar_label(axes.barh(names, rates, color=colours), labels, padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.6 * max(rates))  # room for the labels
        axes.set_xlabel("images per second of CPU time, median")
        axes.set_title(mode)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_string(
        "images",
        "../shared/data/imagenet_photos.tar",
        "Tar file or folder with <class>/<image>, not part of the repository.",
    )
    flags.DEFINE_integer(
        "records", 1024, "Images after repetition, a multiple of the batch size.", lower_bound=1
    )
    flags.DEFINE_integer("rounds", 9, "Interleaved rounds over the contenders.", lower_bound=1)
    flags.DEFINE_integer("batches", 8, "Batches per turn.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
    flags.DEFINE_list("cores", ["1", "2"], "Numbers of cores to measure on.")
    flags.DEFINE_list("modes", ["train", "eval"], "Modes to measure: train, eval or both.")
    flags.DEFINE_list("contenders", list(peers.CONTENDERS), "Pipelines to measure.")
    flags.DEFINE_string("work_dir", "/dev/shm", "Folder for the data; by default in memory.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the tables and charts.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
