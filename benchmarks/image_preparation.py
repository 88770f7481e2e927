"""CPU time to prepare an image, compared with a converter that decodes it, in one run.

    python -m benchmarks.image_preparation

The full-decode converter processes an image as Google's `imagenet_to_gcs.py` does: it reads the
file, decodes it completely to find its height and width, and writes a TFRecord example. It has no
checksums, cannot resume, and uses one process. tf_lars reads the size from the header, rejects
what a decoder rejects, and hashes the shard as read back from the file system.

Contenders: one worker process writes a shard for each in turn, in a new order every round. Scaling:
tf_lars on one and on two worker processes in turn. Everything from reading the files to the
finished shard in the workers is measured; listing the files and starting the processes (importing
TensorFlow) are not, since they do not depend on the number of images. Files are read from the page
cache. Writes `image_preparation.csv`, `image_preparation_scaling.csv` and a chart.

The photographs are not in the repository: `--photos` is a tar of JPEGs in class folders, by default
`../shared/data/imagenet_photos.tar`, next to the checkout.
"""

import pathlib
import random
import shutil
import statistics
import tempfile

from absl import app, flags

from benchmarks import tables
from benchmarks.preparation_contenders import FullDecodeTask, Measured, timed
from tf_lars.data.prepare import process_pool
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.image_folder import ImageFolder
from tf_lars.data.prepare.output_folder import OutputFolder
from tf_lars.data.prepare.shard_writer import ShardTask
from tf_lars.data.prepare.sharding import ImageFile, ShardPlan

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "photos",
    str(pathlib.Path(__file__).resolve().parents[2] / "shared/data/imagenet_photos.tar"),
    "Tar file of <folder>/<class>/*.JPEG, not part of the repository.",
)
flags.DEFINE_integer("rounds", 9, "Measured rounds, after a warm-up round.", lower_bound=5)
flags.DEFINE_integer("images", 1000, "Images per contender and round.", lower_bound=1)
flags.DEFINE_integer("scaling_images", 16000, "Images per run of the scaling.", lower_bound=1)
flags.DEFINE_string("work_dir", None, "Folder for temporary files; by default the system's.")
flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the tables and the chart.")

FULL_DECODE = "full-decode converter"
OURS = "tf_lars"
RESIZED = "tf_lars, --short_side=256 --jpeg_quality=90"
"""Names of the contenders."""

_ENCODINGS = {OURS: EncodingSettings(), RESIZED: EncodingSettings(256, 90)}
_IMAGES_PER_TASK = 200


class Photos:
    """Image files in a folder `train/<class>/*`, and tasks with some of them."""

    def __init__(self, tar_path, folder):
        shutil.unpack_archive(tar_path, folder / "unpacked")
        (unpacked,) = (folder / "unpacked").iterdir()
        unpacked.rename(folder / "train")
        paths = sorted(path for path in (folder / "train").rglob("*") if path.is_file())
        self._folder = folder
        self._files = [
            ImageFile(str(path.relative_to(folder)), label, path.stat().st_size)
            for label, path in enumerate(paths, start=1)
        ]
        self.mean_bytes = statistics.mean(file.num_bytes for file in self._files)
        (folder / "shards").mkdir()

    def task(self, name, images, number=0):
        """Returns a task of `images` images, repeating photos; `number` is that of its shard."""
        files = [self._files[i % len(self._files)] for i in range(images)]
        shard = f"train-{number:05d}-of-99999"
        if name == FULL_DECODE:
            paths = tuple(str(self._folder / file.path) for file in files)
            return Measured(name, FullDecodeTask(paths, 1, str(self._folder / "shards" / shard)))
        synsets = tuple(file.path.split("/")[1] for file in self._files)
        output = OutputFolder(str(self._folder / "shards"), "benchmark")
        output.begin()
        task = ShardTask(
            ImageFolder(str(self._folder)),
            output,
            _ENCODINGS[name],
            synsets,
            synsets,
            ShardPlan(shard, tuple(files)),
        )
        return Measured(name, task)


def compare(photos, rounds, images):
    """Returns the table of all contenders, which take turns in one process."""
    names = [FULL_DECODE, *_ENCODINGS]
    shuffle = random.Random(0).shuffle
    tasks = []
    for _ in range(rounds + 1):
        shuffle(names)
        tasks += [photos.task(name, images) for name in names]
    timings = [t for t in process_pool.run_tasks(timed, tasks, 1) if not isinstance(t, int)]
    measured = timings[len(names) :]
    cpu = {
        name: [1e3 * t.cpu / t.images for t in measured if t.name == name]
        for name in (FULL_DECODE, *_ENCODINGS)
    }
    base = statistics.median(cpu[FULL_DECODE])
    return [
        {
            "contender": name,
            "cpu_ms_per_image_median": round(statistics.median(times), 4),
            "cpu_ms_per_image_min": round(min(times), 4),
            "images_per_s_core": round(1e3 / statistics.median(times)),
            "times_full_decode": round(base / statistics.median(times), 2),
            "kb_per_image": round(_kilobytes(measured, name), 1),
            "images_per_round": images,
            "rounds": rounds,
        }
        for name, times in cpu.items()
    ]


def _kilobytes(timings, name):
    return statistics.mean(t.num_bytes / t.images for t in timings if t.name == name) / 1e3


def scale(photos, rounds, images, name=OURS):
    """Returns the table of a contender on one and on two processes, which take turns."""
    measured = {1: [], 2: []}
    for round_ in range(-1, rounds):
        for processes in measured:
            figures = _run(photos, name, images, processes)
            if round_ >= 0:
                measured[processes].append(figures)
    rows = []
    for processes, figures in measured.items():
        rates, cpus = zip(*figures, strict=True)
        rows.append(
            {
                "contender": name,
                "processes": processes,
                "images_per_s_median": round(statistics.median(rates)),
                "images_per_s_max": round(max(rates)),
                "times_one_process": round(
                    statistics.median(
                        rate / one for (rate, _), (one, _) in zip(figures, measured[1], strict=True)
                    ),
                    2,
                ),
                "cpu_ms_per_image_median": round(statistics.median(cpus), 4),
                "images_per_round": images,
                "rounds": rounds,
            }
        )
    return rows


def _run(photos, name, images, processes):
    """Returns images per second of wall time, and CPU milliseconds per image, of one run.

    The first task of each process is a warm-up; the clock starts when all of these are done.
    """
    tasks = [
        photos.task(name, _IMAGES_PER_TASK, number)
        for number in range(processes + images // _IMAGES_PER_TASK)
    ]
    seen, warm, rest = set(), [], []
    for timing in process_pool.run_tasks(timed, tasks, processes):
        if not isinstance(timing, int):
            (rest if timing.process in seen else warm).append(timing)
            seen.add(timing.process)
    start = max(timing.end for timing in warm)
    rest = [timing for timing in rest if timing.begin >= start]
    counted = sum(timing.images for timing in rest)
    wall = max(timing.end for timing in rest) - min(timing.begin for timing in rest)
    return counted / wall, 1e3 * sum(timing.cpu for timing in rest) / counted


def chart(contenders, scaling, path):
    """Draws images per second for all contenders on one core, and for tf_lars on one and two."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    bars = left.barh(
        [row["contender"].replace(", ", "\n") for row in contenders],
        [row["images_per_s_core"] for row in contenders],
        color=[
            "tab:red" if row["contender"].startswith(OURS) else "tab:blue" for row in contenders
        ],
    )
    left.bar_label(
        bars,
        [f"{row['images_per_s_core']:,} ({row['times_full_decode']}x)" for row in contenders],
        padding=3,
    )
    left.invert_yaxis()
    left.set_xlabel("images per second of CPU time, median")
    left.set_xlim(right=1.3 * max(row["images_per_s_core"] for row in contenders))
    bars = right.bar(
        [f"{row['processes']} process{'es' * (row['processes'] > 1)}" for row in scaling],
        [row["images_per_s_median"] for row in scaling],
        color="tab:red",
        width=0.5,
    )
    right.bar_label(
        bars, [f"{row['images_per_s_median']:,} ({row['times_one_process']}x)" for row in scaling]
    )
    right.set_ylabel("images/s of wall time, median")
    right.set_ylim(top=1.15 * max(row["images_per_s_median"] for row in scaling))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    print(tables.machine())
    results = pathlib.Path(FLAGS.output_dir)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FLAGS.work_dir) as folder:
        photos = Photos(FLAGS.photos, pathlib.Path(folder))
        print(f"photographs of {photos.mean_bytes / 1e3:.0f} KB on average")
        contenders = compare(photos, FLAGS.rounds, FLAGS.images)
        tables.show(contenders)
        scaling = scale(photos, FLAGS.rounds, FLAGS.scaling_images)
        tables.show(scaling)
    tables.write(contenders, results / "image_preparation.csv")
    tables.write(scaling, results / "image_preparation_scaling.csv")
    chart(contenders, scaling, results / "image_preparation.png")


if __name__ == "__main__":
    app.run(main)
