"""Fits the planner's device families to published results and validates on held-out results.

    python -m benchmarks.fit_planner

Writes `tf_lars/planner/fitted.csv`, and under `benchmarks/results`: `planner_validation.csv`
(in-sample and out-of-sample errors), `planner_by_size.csv` (fitted on up to 128 devices, validated
on more), `planner_papers.csv` (every published result except MLPerf submissions) and
`planner_data_sheets.csv` (rates computed from `tf_lars/planner/data_sheets.csv`).

The model of a family is t = (b + h)/r + k lg(p)/r; see `tf_lars/planner/devices.py`. All families
are fitted jointly: each has its own r; a log-normal prior keeps h near a mean that all families
share and that is also fitted, and a half-normal prior keeps k near 0, so that a family with two
results is not fitted to their noise. Residuals are relative errors of the step time, with a robust
(Huber) loss. The widths of the priors hardly matter: over 16 pairs of widths, the mean error on
held-out results (10 folds) was between 5.8 % and 6.3 %.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from benchmarks import tables
from tf_lars import packaged_csv
from tf_lars.planner.communication import BYTES
from tf_lars.planner.devices import FittedDevice
from tf_lars.planner.epochs import epochs_to_target
from tf_lars.planner.least_squares import covariance, solve
from tf_lars.planner.published import PublishedResult, published_results
from tf_lars.planner.workloads import workload

FLAGS = flags.FLAGS

MLPERF_DEVIATION, PAPER_DEVIATION = 0.05, 0.15
"""Relative deviation of a result from its family, larger for papers, whose software differs."""

OVERHEAD_WIDTH, GROWTH_WIDTH = 0.55, 0.6
"""Standard deviations of log h among families, and of k, which is in images and at least 0."""

TYPICAL_OVERHEAD = 8.0
"""Initial value of the mean of h, in images; its prior spans a factor of 7 either way."""

LEAST_ROWS = 4
"""Number of results below which a family is fitted but not validated."""

SMALL = 128
"""Number of devices of the largest system in the fit that is validated on larger ones."""

RESNET50 = workload("resnet50")


def fit(results: Sequence[PublishedResult]) -> dict[str, FittedDevice]:
    """Returns the families' constants, fitted to results of ResNet-50, with `relative_error` 0."""
    names = sorted({result.accelerator for result in results})
    count = len(names)
    family = np.array([names.index(result.accelerator) for result in results])
    images = np.array([result.global_batch_size / result.devices for result in results])
    doublings = np.log2([result.devices for result in results])
    seconds = np.log([result.step_seconds for result in results])
    deviation = np.array(
        [MLPERF_DEVIATION if result.is_mlperf else PAPER_DEVIATION for result in results]
    )

    def residuals(x):
        log_rate, log_overhead, growth = x[:-1].reshape(3, count)
        total = images + np.exp(log_overhead)[family] + growth[family] * doublings
        return np.concatenate(
            [
                (np.log(total) - log_rate[family] - seconds) / deviation,
                (log_overhead - x[-1]) / OVERHEAD_WIDTH,
                growth / GROWTH_WIDTH,
                [(x[-1] - math.log(TYPICAL_OVERHEAD)) / 2.0],
            ]
        )

    start = np.concatenate(
        [
            [np.log((images / np.exp(seconds))[family == i].max()) for i in range(count)],
            np.full(count, math.log(TYPICAL_OVERHEAD)),
            np.full(count, GROWTH_WIDTH),
            [math.log(TYPICAL_OVERHEAD)],
        ]
    )
    lower = np.full(len(start), -np.inf)
    lower[2 * count : 3 * count] = 0.0
    best = solve(residuals, start, lower=lower, robust=len(results))
    variances = np.diag(covariance(residuals, best, robust=len(results)))
    deviations = np.sqrt(variances[:-1]).reshape(3, count)
    values = best[:-1].reshape(3, count)
    values[:2] = np.exp(values[:2])
    deviations[:2] *= values[:2]
    return {
        name: FittedDevice(
            name,
            *(float(value) for value in values[:, i]),
            *(float(deviation) for deviation in deviations[:, i]),
            relative_error=0.0,
            results=int((family == i).sum()),
            most_devices=max(r.devices for r in results if r.accelerator == name),
            least_images=float(images[family == i].min()),
            most_images=float(images[family == i].max()),
        )
        for i, name in enumerate(names)
    }


def errors(
    families: dict[str, FittedDevice],
    results: Sequence[PublishedResult],
    *,
    epochs_given: bool = True,
) -> np.ndarray:
    """Returns predicted / published minutes - 1 for results of known families."""
    out = []
    for result in results:
        batch = result.global_batch_size
        step = families[result.accelerator].step(RESNET50, batch / result.devices, result.devices)
        ratio = step.total / result.step_seconds
        if not epochs_given:
            ratio *= epochs_to_target("resnet50", batch)[0] / result.epochs
        out.append(ratio - 1)
    return np.array(out)


def judged(results: Sequence[PublishedResult]) -> list[PublishedResult]:
    """Returns the MLPerf results of families with at least `LEAST_ROWS` of them, except CPUs."""
    mlperf = [r for r in results if r.is_mlperf and not r.accelerator.startswith("CPU")]
    counts = {r.accelerator: sum(q.accelerator == r.accelerator for q in mlperf) for r in mlperf}
    return [r for r in mlperf if counts[r.accelerator] >= LEAST_ROWS]


def validate(results: Sequence[PublishedResult], repeats: int) -> list[dict]:
    """Returns in-sample and held-out errors, with published and with predicted epochs."""
    targets = judged(results)
    rest = [r for r in results if r not in targets]
    random = np.random.default_rng(0)
    schemes = {"in sample": [(targets, targets)], "leave one out": _folds(targets, len(targets))}
    for name, parts in (("10 folds", 10), ("half and half", 2)):
        schemes[name] = [
            fold
            for _ in range(repeats)
            for fold in _folds([targets[i] for i in random.permutation(len(targets))], parts)
        ]
    rows = []
    for name, folds in schemes.items():
        collected = {True: [], False: []}
        for given, kept in folds:
            families = fit([*given, *rest])
            kept = [r for r in kept if any(g.accelerator == r.accelerator for g in given)]
            for epochs_given, parts in collected.items():
                parts.append(errors(families, kept, epochs_given=epochs_given))
        for epochs_given, parts in collected.items():
            rows.append(
                {
                    "results": name,
                    "epochs": "as published" if epochs_given else "predicted",
                    **_summary(np.concatenate(parts)),
                }
            )
    return rows


def by_size(results: Sequence[PublishedResult]) -> list[dict]:
    """Returns the errors of each family on more than 128 devices, fitted on up to 128."""
    targets = judged(results)
    small = [r for r in results if r.devices <= SMALL]
    families = fit(small)
    rows = []
    for name in sorted({r.accelerator for r in targets}):
        kept = [r for r in targets if r.accelerator == name and r.devices > SMALL]
        given = [r for r in targets if r.accelerator == name and r.devices <= SMALL]
        if kept and given:
            rows.append({"family": name, "given": len(given), **_summary(errors(families, kept))})
    return rows


def papers(results: Sequence[PublishedResult]) -> list[dict]:
    """Returns every result except MLPerf submissions, with its prediction.

    Results that are part of the fit are predicted both with and without themselves in the fit.
    """
    everything = [r for r in results if r.fitted]
    families = fit(everything)
    rows = []
    for result in results:
        if result.is_mlperf:
            continue
        batch = result.global_batch_size or 128 * result.devices
        known = dataclasses.replace(result, global_batch_size=batch)
        without = [r for r in everything if r is not result]
        left_out = ""
        if result.fitted and any(r.accelerator == result.accelerator for r in without):
            left_out = round(_minutes(fit(without), known), 2)
        minutes = _minutes(families, known)
        rows.append(
            {
                "work": result.work,
                "year": result.year,
                "tag": result.tag,
                "model": result.model,
                "accelerator": result.accelerator,
                "devices": result.devices,
                "global_batch_size": batch,
                "epochs": result.epochs,
                "published_minutes": result.minutes,
                "predicted_minutes": round(minutes, 2),
                "error_percent": round(100 * (minutes / result.minutes - 1), 1),
                "fitted": "yes" if result.fitted else "no",
                "left_out_minutes": left_out,
                "left_out_error_percent": round(100 * (left_out / result.minutes - 1), 1)
                if left_out
                else "",
                "remark": result.remark,
            }
        )
    return rows


def data_sheets(families: dict[str, FittedDevice]) -> tuple[float, float, list[dict]]:
    """Fits the two constants that convert data sheets to the families' rates.

    Returns:
      The fraction of peak FLOP/s, the bytes per FLOP in 16 bits, and a row per family with the
      error of its rate if it is held out of the fit.
    """
    sheets = packaged_csv.rows("tf_lars.planner", "data_sheets.csv")
    # The others have no published rates to compare with.
    sheets = [sheet for sheet in sheets if sheet["accelerator"] in families]
    shares = np.arange(20, 60, 2)[:, None, None] / 100
    traffic = np.arange(10, 30)[None, :, None] / 1000
    width = np.array([BYTES[s["precision"]] / 2 for s in sheets])
    arithmetic = np.array([float(s["peak_tflops"]) * 1e12 for s in sheets])
    memory = np.array([float(s["memory_gb_per_second"]) * 1e9 for s in sheets])
    rates = np.array([families[s["accelerator"]].images_per_second for s in sheets])
    allowed = np.minimum(shares * arithmetic, memory / (traffic * width)) / RESNET50.training_flops
    log_errors = np.log(allowed / rates)

    def best(kept):
        return np.unravel_index((log_errors[..., kept] ** 2).sum(-1).argmin(), log_errors.shape[:2])

    everything = np.ones(len(sheets), bool)
    rows = []
    for i, sheet in enumerate(sheets):
        share, bytes_per_flop = best(np.arange(len(sheets)) != i)
        error = math.expm1(log_errors[share, bytes_per_flop, i])
        rows.append(
            {
                "accelerator": sheet["accelerator"],
                "peak_tflops": sheet["peak_tflops"],
                "memory_gb_per_second": sheet["memory_gb_per_second"],
                "fitted_images_per_second": round(float(rates[i])),
                "left_out_error_percent": round(100 * error, 1),
            }
        )
    share, bytes_per_flop = best(everything)
    return float(shares[share, 0, 0]), float(traffic[0, bytes_per_flop, 0]), rows


def with_relative_errors(
    families: dict[str, FittedDevice], results: Sequence[PublishedResult]
) -> dict[str, FittedDevice]:
    """Returns the families with their relative errors on held-out results.

    This is the root mean square of the family's errors, shrunk towards that of all families with
    the weight of `LEAST_ROWS` results.
    """
    left_out: dict[str, list[float]] = {name: [] for name in families}
    for result in results:
        rest = [r for r in results if r is not result]
        if any(r.accelerator == result.accelerator for r in rest):
            left_out[result.accelerator].append(float(errors(fit(rest), [result])[0]))
    common = np.mean([e**2 for own in left_out.values() for e in own])
    return {
        name: dataclasses.replace(
            family,
            relative_error=float(
                np.sqrt(
                    (np.sum(np.square(left_out[name])) + LEAST_ROWS * common)
                    / (len(left_out[name]) + LEAST_ROWS)
                )
            ),
        )
        for name, family in families.items()
    }


def _minutes(families: dict[str, FittedDevice], result: PublishedResult) -> float:
    step = families[result.accelerator].step(
        workload(result.model), result.global_batch_size / result.devices, result.devices
    )
    return result.minutes * step.total / result.step_seconds


def _folds(items: Sequence, parts: int) -> list[tuple[list, list]]:
    return [
        ([x for i, x in enumerate(items) if i % parts != part], list(items[part::parts]))
        for part in range(parts)
    ]


def _summary(relative: np.ndarray) -> dict:
    size = 100 * np.abs(relative)
    return {
        "predictions": len(size),
        "mean_error_percent": round(float(size.mean()), 2),
        "percentile_90_percent": round(float(np.percentile(size, 90)), 2),
        "bias_percent": round(float(100 * np.median(relative)), 2),
    }


def main(_):
    """Fits and validates the families, and writes the tables."""
    results = published_results()
    fitted = [r for r in results if r.fitted]
    families = with_relative_errors(fit(fitted), fitted)
    constants = [dataclasses.asdict(family) for family in families.values()]
    tables.write([_rounded(row) for row in constants], pathlib.Path(FLAGS.constants))
    folder = pathlib.Path(FLAGS.output_dir)
    for name, rows in (
        ("planner_validation", validate(fitted, FLAGS.repeats)),
        ("planner_by_size", by_size(fitted)),
        ("planner_papers", papers(results)),
        ("planner_data_sheets", data_sheets(families)[2]),
    ):
        print(f"\n{name}")
        tables.show(rows)
        tables.write(rows, folder / f"{name}.csv")


def _rounded(row: dict) -> dict:
    return {k: f"{round(v, 6):.4g}" if isinstance(v, float) else v for k, v in row.items()}


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_string("constants", "tf_lars/planner/fitted.csv", "File for the constants.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the tables of errors.")
    flags.DEFINE_integer("repeats", 10, "Number of random splits of each kind.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
