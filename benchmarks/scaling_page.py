"""Draws the figures of docs/scaling.md and updates its tables.

    python -m benchmarks.scaling_page

Tables are placed between `<!-- table: NAME -->` and `<!-- end -->`. Their data come from the files
written by `benchmarks.fit_planner` and `benchmarks.planner_local`, and from the planner.
"""

import csv
import pathlib

from absl import app, flags

from benchmarks.scaling_pictures import GIB, PICTURES, record_rows, short
from benchmarks.tables import fill, markdown
from tf_lars import planner
from tf_lars.planner import epochs
from tf_lars.recipes.recipes import IMAGENET_EXAMPLES

FLAGS = flags.FLAGS


def tables(results: pathlib.Path) -> dict[str, str]:
    """Returns the page's tables in Markdown, by name."""
    validation = _read(results / "planner_validation.csv")
    sizes = _read(results / "planner_by_size.csv")
    papers = _read(results / "planner_papers.csv")
    sheets = _read(results / "planner_data_sheets.csv")
    local = _read(results / "planner_local.csv")
    return {
        "validation": markdown(
            ["results", "epochs", "predictions", "mean error", "90th percentile"],
            [[r["results"], r["epochs"], r["predictions"], f"{r['mean_error_percent']} %",
              f"{r['percentile_90_percent']} %"] for r in validation],
        ),
        "by size": markdown(
            ["family", "results up to 128 devices", "predicted", "mean error", "bias"],
            [[r["family"], r["given"], r["predictions"], f"{r['mean_error_percent']} %",
              f"{float(r['bias_percent']):+.1f} %"] for r in sizes],
        ),
        "papers": markdown(
            ["work", "tag", "model, devices, batch, epochs", "published", "predicted", "error",
             "left out", "remark"],
            [[r["work"], r["tag"],
              f"{r['model']}, {int(r['devices']):,} {r['accelerator']}, "
              f"{int(r['global_batch_size']):,}, {float(r['epochs']):g}",
              r["published_minutes"], r["predicted_minutes"],
              _percent(r['error_percent']),
              _percent(r['left_out_error_percent']) if r["left_out_minutes"] else "",
              r["remark"]] for r in papers],
        ),
        "records": markdown(
            ["year", "work", "devices", "batch", "epochs", "published", "predicted", "error"],
            [[row["result"].year, short(row["result"].work),
              f"{row['result'].devices:,} {row['result'].accelerator}",
              f"{row['result'].global_batch_size:,}", f"{row['result'].epochs:g}",
              f"{row['result'].minutes:.4g}", f"{row['plan'].minutes:.4g}",
              _percent(100 * (row['plan'].minutes / row['result'].minutes - 1))]
             for row in record_rows()],
        ),
        "data sheets": markdown(
            ["accelerator", "TFLOP/s", "GB/s", "images/s, fitted", "error, left out"],
            [[r["accelerator"], r["peak_tflops"], r["memory_gb_per_second"],
              r["fitted_images_per_second"], _percent(r['left_out_error_percent'])]
             for r in sheets],
        ),
        "local": markdown(
            ["workers", "batch", "role", "measured", "predicted", "error", "expected error"],
            [[r["workers"], r["global_batch_size"], r["role"], f"{r['measured_step_ms']} ms",
              f"{r['predicted_step_ms']} ms", _percent(r['error_percent']),
              f"{float(r['expected_error_percent']):.0f} %"] for r in local],
        ),
        "iterations": markdown(
            ["batch", "iterations of 90 epochs", "GiB sent", "epochs needed", "iterations needed",
             "GiB sent"],
            [_iterations(2**i) for i in range(8, 18)],
        ),
    }  # fmt: skip


def _iterations(batch: int) -> list[str]:
    needed, extrapolated = epochs.epochs_to_target("resnet50", batch)
    cells = [f"{batch:,}"]
    for passes in (90, needed):
        steps = passes * IMAGENET_EXAMPLES / batch
        if passes != 90:
            cells.append(f"{'~' if extrapolated else ''}{passes:.1f}")
        cells += [
            f"{steps:,.0f}",
            f"{steps * 4 * planner.workload('resnet50').parameters / GIB:,.0f}",
        ]
    return cells


def _percent(value: float | str) -> str:
    return f"{round(float(value)):+d} %"


def _read(path: pathlib.Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main(_):
    """Draws all figures and updates all tables."""
    docs = pathlib.Path(FLAGS.docs)
    for name, draw in PICTURES.items():
        draw(docs / name)
    page = docs / "scaling.md"
    page.write_text(fill(page.read_text(), tables(pathlib.Path(FLAGS.results))))


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_string("docs", "docs", "Folder of scaling.md and its figures.")
    flags.DEFINE_string(
        "results", "benchmarks/results", "Folder with the tables of the planner's errors."
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
