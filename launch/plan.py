"""Time to train, before any machine is rented: a table of plans and a picture.

python -m launch.plan --accelerator=A100-SXM --devices=64 --global_batch_size=16384
"""

import dataclasses
import functools
import json

from absl import flags

from launch.cli import app
from tf_lars import planner
from tf_lars.errors import EXIT_DONE, InputError
from tf_lars.planner import communication, plan_table, search
from tf_lars.planner.devices import Device
from tf_lars.planner.prediction import Plan
from tf_lars.recipes import recipes

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the program's flags."""
    flags.DEFINE_string("model", None, f"One of {', '.join(planner.workloads())}.")
    flags.DEFINE_string(
        "accelerator",
        None,
        f"A family with published results: {', '.join(planner.accelerators())}.",
    )
    flags.DEFINE_integer("devices", None, "How many train together.")
    flags.DEFINE_integer(
        "global_batch_size", None, "Examples per step, on all devices; by default the quickest."
    )
    flags.DEFINE_float("epochs", None, "Passes over the data; by default what the batch needs.")
    flags.DEFINE_integer("num_examples", recipes.IMAGENET_EXAMPLES, "Training examples per epoch.")
    flags.DEFINE_string("optimizer", "lars", "lars or sgd: whose settings are shown.")
    flags.DEFINE_float("price_per_device_hour", None, "For the cost, in any currency.")
    flags.DEFINE_float("deadline_minutes", None, "Find the fewest devices that train in this time.")
    flags.DEFINE_integer(
        "largest_batch", 67840, "Of the batches that are tried; the largest published is 67,840."
    )
    flags.DEFINE_float("flops", None, "A device's peak FLOP/s, where it has no published results.")
    flags.DEFINE_float("memory_bandwidth", None, "Its memory's bytes/s.")
    flags.DEFINE_string(
        "network",
        None,
        f"Between its nodes: {', '.join(planner.networks())}, or LATENCY_US:GIGABITS.",
    )
    flags.DEFINE_string("node_network", None, "Within a node, for --all_reduce=two_level.")
    flags.DEFINE_integer("devices_per_node", 8, "For --all_reduce=two_level.")
    flags.DEFINE_string("all_reduce", "ring", f"One of {', '.join(communication.ALGORITHMS)}.")
    flags.DEFINE_string("dtype", "bfloat16", "Of the arithmetic: float32, bfloat16 or float16.")
    flags.DEFINE_string("gradient_dtype", "float32", "In which gradients are sent.")
    flags.DEFINE_float("overlap", 0.0, "Share of the backward pass that hides the all-reduce.")
    flags.DEFINE_list(
        "calibrate", None, "Folders of finished runs (--model_dir), from which to predict."
    )
    flags.DEFINE_string("format", "table", "table or json.")
    flags.DEFINE_string(
        "picture", "plan.png", "Where the picture goes; with --format=json none unless given."
    )


def main() -> int:
    """Prints the plan, and draws it."""
    if FLAGS.format not in ("table", "json"):
        raise InputError(f"--format must be table or json. Received: {FLAGS.format!r}.")
    accelerator = _accelerator()
    at = functools.partial(
        planner.predict,
        model=FLAGS.model,
        accelerator=accelerator,
        epochs=FLAGS.epochs,
        num_examples=FLAGS.num_examples,
        price_per_device_hour=FLAGS.price_per_device_hour,
    )
    plan = _plan(at, accelerator)
    answer = _answer(at, plan)
    if FLAGS.format == "json":
        print(json.dumps(_as_json(answer), indent=2))
    else:
        print(_as_text(answer), flush=True)
    if FLAGS.picture and (FLAGS.format == "table" or FLAGS["picture"].present):
        from tf_lars.planner import plan_picture

        plan_picture.draw(at, plan, answer.paying, FLAGS.picture)
        if FLAGS.format == "table":
            print(f"\npicture in {FLAGS.picture}")
    return EXIT_DONE


@dataclasses.dataclass(frozen=True)
class Answer:
    """Everything that is printed.

    Attributes:
      plan: what was asked for.
      same_batch: plans of other numbers of devices, at its batch.
      same_images: plans of other numbers of devices, at its images per device.
      paying: the largest plan, at its images per device, from which doubling pays, if any.
      paying_devices: the most devices from which doubling pays at its batch.
      recipe: settings for its batch, or None with
      no_recipe: why there are none.
    """

    plan: Plan
    same_batch: list[Plan]
    same_images: list[Plan]
    paying: Plan | None
    paying_devices: int
    recipe: recipes.Recipe | None
    no_recipe: str


def _accelerator() -> Device:
    described = [n for n in ("flops", "memory_bandwidth", "network") if FLAGS[n].value is not None]
    ways = [
        name
        for name, given in (
            ("--accelerator", FLAGS.accelerator),
            ("--flops", FLAGS.flops),
            ("--calibrate", FLAGS.calibrate),
        )
        if given is not None
    ]
    if FLAGS.calibrate and not FLAGS.flops:
        return planner.calibrate(
            FLAGS.calibrate,
            accelerator=FLAGS.accelerator,
            network=FLAGS.network,
            algorithm=FLAGS.all_reduce,
        )
    if len(ways) != 1:
        raise InputError(
            "The device must be given in one way: by --accelerator, one of "
            f"{', '.join(planner.accelerators())}; by --flops, --memory_bandwidth and --network; "
            f"or by --calibrate. Received: {' and '.join(ways) or 'none of them'}."
        )
    if FLAGS.accelerator:
        return planner.device(FLAGS.accelerator)
    missing = {"flops", "memory_bandwidth", "network"} - set(described)
    if missing:
        raise InputError(
            "Hardware is described by --flops, --memory_bandwidth and --network. Received: no "
            f"--{' and no --'.join(sorted(missing))}."
        )
    return planner.Hardware(
        flops=FLAGS.flops,
        memory_bandwidth=FLAGS.memory_bandwidth,
        network=planner.network(FLAGS.network),
        algorithm=FLAGS.all_reduce,
        node_network=planner.network(FLAGS.node_network) if FLAGS.node_network else None,
        devices_per_node=FLAGS.devices_per_node,
        dtype=FLAGS.dtype,
        gradient_dtype=FLAGS.gradient_dtype,
        overlap=FLAGS.overlap,
    )


def _plan(at: search.Predictor, accelerator: Device) -> Plan:
    batch = FLAGS.global_batch_size
    batches = search.batches(accelerator, FLAGS.largest_batch)
    if batch is not None:
        batches = _only(batch)
    if FLAGS.deadline_minutes is not None:
        if FLAGS.devices is not None:
            raise InputError(
                "--deadline_minutes finds the number of devices. Received: "
                f"--devices={FLAGS.devices} as well. Leave one out."
            )
        return search.for_deadline(at, FLAGS.deadline_minutes, batches)
    if FLAGS.devices is None:
        raise InputError("--devices or --deadline_minutes is required. Received: neither.")
    if batch is not None or FLAGS.devices < 1:  # `predict` says what is wrong
        return at(devices=FLAGS.devices, global_batch_size=batch or 1)
    return search.quickest(at, FLAGS.devices, batches)


def _only(batch: int) -> search.Batches:
    return lambda devices: [batch] if batch % devices == 0 else []


def _answer(at: search.Predictor, plan: Plan) -> Answer:
    same_batch, same_images = search.neighbours(at, plan)
    recipe, no_recipe = None, ""
    try:
        recipe = recipes.for_model(plan.model, plan.global_batch_size, FLAGS.optimizer)
    except InputError as error:
        no_recipe = str(error)
    return Answer(
        plan=plan,
        same_batch=same_batch,
        same_images=same_images,
        paying=search.paying_plan(at, plan.global_batch_size / plan.devices),
        paying_devices=search.paying_devices(at, plan.global_batch_size),
        recipe=recipe,
        no_recipe=no_recipe,
    )


def _as_json(answer: Answer) -> dict:
    return {
        "plan": dataclasses.asdict(answer.plan),
        "same_batch": [dataclasses.asdict(plan) for plan in answer.same_batch],
        "same_images_per_device": [dataclasses.asdict(plan) for plan in answer.same_images],
        "doubling_pays": {
            "least_speedup": search.LEAST_SPEEDUP,
            "up_to_global_batch_size": answer.paying and answer.paying.global_batch_size,
            "up_to_devices_at_this_batch": answer.paying_devices,
        },
        "recipe": answer.recipe and dataclasses.asdict(answer.recipe),
    }


def _as_text(answer: Answer) -> str:
    plan = answer.plan
    images = plan.global_batch_size / plan.devices
    lines = [
        f"{plan.model} on {plan.devices:,} x {plan.accelerator}, global batch "
        f"{plan.global_batch_size:,}: {plan_table.planned_time(plan)}",
        *(f"note        {note}" for note in plan.notes),
        answer.recipe.describe() if answer.recipe else f"recipe      none: {answer.no_recipe}",
        "",
        plan_table.header(with_cost=bool(FLAGS.price_per_device_hour)),
        *(plan_table.row(p, marked=p == plan) for p in answer.same_batch),
        f"at {images:,.4g} images per device:",
        *(plan_table.row(p, marked=p == plan) for p in answer.same_images),
    ]
    if any(p.epochs_extrapolated for p in [*answer.same_batch, *answer.same_images]):
        lines.append("~ extrapolated beyond the largest batch with a published result")
    lines.append("")
    rule = f"at least {search.LEAST_SPEEDUP:g} times as fast"
    if answer.paying:
        lines.append(
            f"With {images:,.4g} images per device, twice the devices and batch are {rule} up to a "
            f"batch of {answer.paying.global_batch_size:,} ({answer.paying.devices:,} devices). "
            "Beyond it, a larger batch stops paying."
        )
    else:
        lines.append(
            f"With {images:,.4g} images per device, twice the devices and batch are nowhere {rule}."
        )
    if answer.paying_devices:
        lines.append(
            f"With this batch, twice the devices are {rule} up to {answer.paying_devices:,} "
            "devices. Beyond that, more devices stop paying."
        )
    else:
        lines.append(f"With this batch, twice the devices are nowhere {rule}.")
    return "\n".join(lines)


if __name__ == "__main__":
    define()
    app.run(main)
