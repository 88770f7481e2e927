"""Folders of invented runs: settings, metrics and results as a run writes them."""

import json
import math
import random

from launch.run.settings import TrainingSettings
from tf_lars.setting import as_arguments

STEPS_PER_EPOCH = 40
BATCH = 4096
START = {
    "tf_lars": "0.9.0",
    "python": "3.11.2",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "devices": "8 x NVIDIA H200",
    "cluster": "8 workers, from TF_CONFIG",
    "commit": "1a07d69",
}
WARNINGS = {
    "input": "The devices wait for input in 31 % of the step. Raise --num_parallel_reads.",
    "straggler": "Worker 3 takes 1.8 times as long per step as the fastest worker.",
    "dead_layer": "The trust ratio of stage4_block2_conv1/kernel is below 1e-6.",
    "critical_batch": "The batch of 4,096 is above the noise scale of 3,100.",
}


def settings(model_dir, **changed):
    """Returns the settings of such a run."""
    given = {
        "model": "resnet50",
        "global_batch_size": BATCH,
        "epochs": 10,
        "mixed_precision": "bfloat16",
        "learning_rate": 12.0,
        "data_dir": "/data/imagenet",
        "model_dir": str(model_dir),
        "evaluation_batch_size": 4096,
    }
    return TrainingSettings(**given | changed)


def layer_paths(blocks=(3, 4, 6, 3)):
    """Returns the paths of the trainable variables of ResNet-50, or of another depth."""
    paths = ["stem_conv/kernel", "stem_norm/gamma", "stem_norm/beta"]
    for stage, count in enumerate(blocks, 1):
        for block in range(1, count + 1):
            for conv in range(1, 4):
                name = f"stage{stage}_block{block}"
                paths += [f"{name}_conv{conv}/kernel", f"{name}_norm{conv}/gamma"]
                paths += [f"{name}_norm{conv}/beta"]
    return [*paths, "head/kernel", "head/bias"]


def scalars(step, epochs, generator, learning_rate=12.0):
    """Returns the scalars that a run writes at a step."""
    epoch = step / STEPS_PER_EPOCH
    done = epoch / epochs
    noise = 500 * math.exp(4 * done)
    seconds = 0.068 + 0.004 * generator.random()
    loss = 1.1 + 5.9 * math.exp(-4 * done) + 0.15 * generator.gauss(0, 1) * (1 - done)
    return {
        "epoch": epoch,
        "loss": loss,
        "top1": max(0.001, 0.78 * (1 - math.exp(-4 * done)) + 0.01 * generator.gauss(0, 1)),
        "top5": max(0.005, 0.94 * (1 - math.exp(-5 * done)) + 0.01 * generator.gauss(0, 1)),
        "learning_rate": learning_rate * min(1, 10 * done) * (1 - done) ** 2,
        "throughput/images_per_second": BATCH / seconds,
        "throughput/images_per_second_per_device": BATCH / seconds / 8,
        "throughput/mfu": 0.34 + 0.01 * generator.random(),
        "throughput/input_wait": 0.02 + 0.3 * (generator.random() > 0.97),
        "throughput/slowest_step_seconds": seconds * 1.06,
        "throughput/fastest_step_seconds": seconds * 0.97,
        "norms/gradient": 2.5 * math.exp(-done) + 0.2 * generator.random(),
        "norms/weights": 60 + 20 * done,
        "norms/update_to_weight": 0.01 * (1 - done) ** 2 + 1e-5,
        "noise/scale": noise * math.exp(0.1 * generator.gauss(0, 1)),
        "noise/trace": 40.0,
        "noise/gradient_squared": 40.0 / noise,
        "noise/batch": BATCH,
        "noise/adascale_gain": 1 + 7 * noise / (noise + BATCH),
        "devices/memory_in_use_bytes": 31 * 2**30,
        "devices/memory_peak_bytes": 58 * 2**30,
        "devices/utilization": 0.93 + 0.05 * generator.random(),
        "devices/power_watts": 560 + 30 * generator.random(),
        "devices/host_cpu": 0.4 + 0.1 * generator.random(),
        "devices/host_memory_bytes": 210 * 2**30,
    }


def validation(step, epochs):
    """Returns the scalars of an evaluation at the end of an epoch."""
    done = step / STEPS_PER_EPOCH / epochs
    return {
        "val_loss": 1.3 + 5.6 * math.exp(-3.6 * done),
        "val_top1": 0.761 * (1 - math.exp(-3.8 * done)),
        "val_top5": 0.93 * (1 - math.exp(-5 * done)),
    }


def layers(step, epochs, generator, paths, with_trust_ratio=True):
    """Returns the statistics of the variables at a step."""
    done = step / STEPS_PER_EPOCH / epochs
    found = {"update_ratio": {}, "weight_norm": {}, "gradient_norm": {}}
    if with_trust_ratio:
        found["trust_ratio"] = {}
    for number, path in enumerate(paths):
        depth = number / len(paths)
        ratio = 1e-3 * math.exp(3 * depth - 2 * done + 0.2 * generator.gauss(0, 1))
        if path == "stage4_block2_conv1/kernel" and done > 0.6:
            ratio *= 1e-4
        if with_trust_ratio:
            found["trust_ratio"][path] = ratio if path.endswith("kernel") else 1.0
        found["update_ratio"][path] = ratio * 12 * (1 - done) ** 2 + 1e-9
        found["weight_norm"][path] = 5 + 10 * depth
        found["gradient_norm"][path] = 0.1 / (1 + depth)
    return found


def lines(epochs=10, *, paths=None, restart_at=None, warnings=(), with_trust_ratio=True, rate=12.0):
    """Returns the lines of metrics.jsonl of a run.

    Args:
      epochs: Epochs that the run has trained.
      paths: Paths of its variables.
      restart_at: Step from which a second process continued, or None.
      warnings: Kinds of warnings, one in each epoch from the second.
      with_trust_ratio: Whether the optimizer is LARS.
      rate: Learning rate.
    """
    generator = random.Random(0)
    paths = layer_paths() if paths is None else paths
    now = 1_760_000_000.0
    found = [{"step": 0, "time": now, "start": START}]
    for step in range(1, epochs * STEPS_PER_EPOCH + 1):
        now += 0.08
        row = scalars(step, epochs, generator, rate)
        ends = step % STEPS_PER_EPOCH == 0
        found.append({"step": step, "time": now} | row | (validation(step, epochs) if ends else {}))
        if step % 5 == 0:
            tags = layers(step, epochs, generator, paths, with_trust_ratio)
            found.append({"step": step, "time": now, "layers": tags})
        epoch = step // STEPS_PER_EPOCH
        if ends and 1 <= epoch <= len(warnings):
            kind = warnings[epoch - 1]
            message = WARNINGS.get(kind, f"A finding of the kind {kind}.")
            found.append({"step": step, "time": now, "warning": kind, "message": message})
        if step == restart_at:
            now += 3600  # of waiting for a machine
            changed = {"devices": "4 x NVIDIA H200", "commit": "b946504"}
            found.append({"step": step, "time": now, "start": START | changed})
    return found


def results(epochs=10, **changed):
    """Returns the results of such a run on eight H200."""
    steps = epochs * STEPS_PER_EPOCH
    return {
        "top1": validation(steps, epochs)["val_top1"],
        "top5": validation(steps, epochs)["val_top5"],
        "loss": validation(steps, epochs)["val_loss"],
        "eval_examples": 50000,
        "bad_records": 0,
        "skipped_steps": 0,
        "steps": steps,
        "epochs": epochs,
        "global_batch_size": BATCH,
        "images_per_second": 58500.0,
        "weights_sha256": "5f" * 32,
        "replica_weights_sha256": ["5f" * 32] * 8,
        "num_workers": 8,
        "seconds": 0.08 * steps,
        "data": "imagenet",
        "model": "resnet50",
        "image_size": 224,
        "forward_flops": 8178000000,
        "parameters": 25557032,
        "device": "NVIDIA H200",
        "replicas": 8,
        "cores_per_replica": None,
        "num_hosts": 1,
    } | changed


def write(folder, *, of_settings=None, of_lines=None, of_results=None):
    """Writes the files of a run into a folder; returns the settings.

    Args:
      folder: The folder, which is created.
      of_settings: Settings; by default those of `settings`.
      of_lines: Lines of metrics.jsonl; None for no such file.
      of_results: Content of results.json; None for no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_settings = of_settings or settings(folder)
    (folder / "flags.txt").write_text("\n".join(as_arguments(of_settings)) + "\n")
    if of_lines is not None:
        text = "".join(json.dumps(line) + "\n" for line in of_lines)
        (folder / "metrics.jsonl").write_text(text)
    if of_results is not None:
        (folder / "results.json").write_text(json.dumps(of_results))
    return of_settings
