"""Predicts the time to train before any machine is rented: a table of plans and a picture.

python -m launch.plan --accelerator=A100-SXM --devices=64 --global_batch_size=16384
"""

import dataclasses
import functools
import json

from launch.cli import app, flags
from tf_lars import planner
from tf_lars.errors import EXIT_DONE, InputError
from tf_lars.planner import communication, plan_table, search
from tf_lars.planner.devices import Device
from tf_lars.planner.prediction import Plan
from tf_lars.recipes import recipes
from tf_lars.setting import MOST_EPOCHS, above, batch_size, check, one_of, picture, setting, within

PLAN, HARDWARE, OUTPUT = "What to plan", "Hardware", "Output"
"""Groups of settings in `--help`."""

_DTYPES = tuple(communication.BYTES)


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Settings of a plan; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    model: str | None = setting(
        f"Model to train: one of {', '.join(planner.workloads())}. Defaults to resnet50, or to the "
        "model of the runs in --calibrate.",
        None,
        group=PLAN,
    )
    devices: int | None = setting(
        "Number of devices.", None, rule=within(1, search.MOST_DEVICES), group=PLAN
    )
    deadline_minutes: float | None = setting(
        "Instead of --devices: finds the fewest devices that train within this time.",
        None,
        rule=above(0, 1e9),
        group=PLAN,
    )
    global_batch_size: int | None = setting(
        "Examples per step, on all devices. Defaults to the batch with the shortest time.",
        None,
        rule=batch_size(),
        group=PLAN,
    )
    largest_batch: int = setting(
        "Largest batch to try where --global_batch_size is not given; the largest published one "
        "is 67,840.",
        67840,
        rule=batch_size(),
        group=PLAN,
    )
    epochs: float | None = setting(
        "Passes over the data. Defaults to those that the batch needs.",
        None,
        rule=above(0, MOST_EPOCHS),
        group=PLAN,
    )
    num_examples: int = setting(
        "Training examples per epoch.",
        recipes.IMAGENET_EXAMPLES,
        rule=within(1, 10**12),
        group=PLAN,
    )
    optimizer: str = setting(
        "Optimizer of the recipe that is shown: lars or sgd.",
        "lars",
        rule=one_of("lars", "sgd"),
        group=PLAN,
    )
    price_per_device_hour: float | None = setting(
        "Price in any currency, for the cost of the run.", None, rule=above(0, 1e9), group=PLAN
    )
    accelerator: str | None = setting(
        f"Device family with published results: {', '.join(planner.accelerators())}. With "
        "--calibrate, the device among those of the runs.",
        None,
        group=HARDWARE,
    )
    calibrate: tuple[str, ...] | None = setting(
        "Folders of your own finished runs (--model_dir) from which to predict.",
        None,
        group=HARDWARE,
    )
    flops: float | None = setting(
        "Peak FLOP/s of a device without published results.",
        None,
        rule=within(1e6, 1e20),
        group=HARDWARE,
    )
    memory_bandwidth: float | None = setting(
        "Memory bandwidth of that device, in bytes/s.",
        None,
        rule=within(1e6, 1e20),
        group=HARDWARE,
    )
    network: str | None = setting(
        f"Network between nodes: {', '.join(planner.networks())}, or LATENCY_US:GIGABITS.",
        None,
        group=HARDWARE,
    )
    node_network: str | None = setting(
        "Network within a node, for --all_reduce=two_level.", None, group=HARDWARE
    )
    devices_per_node: int = setting(
        "Devices per node, for --all_reduce=two_level.", 8, rule=within(1, 1000), group=HARDWARE
    )
    all_reduce: str = setting(
        f"All-reduce algorithm: one of {', '.join(communication.ALGORITHMS)}.",
        "ring",
        rule=one_of(*communication.ALGORITHMS),
        group=HARDWARE,
    )
    dtype: str = setting(
        f"Data type of the arithmetic: one of {', '.join(_DTYPES)}.",
        "bfloat16",
        rule=one_of(*_DTYPES),
        group=HARDWARE,
    )
    gradient_dtype: str = setting(
        f"Data type in which gradients are sent: one of {', '.join(_DTYPES)}.",
        "float32",
        rule=one_of(*_DTYPES),
        group=HARDWARE,
    )
    overlap: float = setting(
        "Share of the backward pass that overlaps with the all-reduce.",
        0.0,
        rule=within(0, 1),
        group=HARDWARE,
    )
    format: str = setting("table or json.", "table", rule=one_of("table", "json"), group=OUTPUT)
    picture: str = setting(
        "Path of the picture; empty for none. With --format=json, it is drawn only if this flag is "
        "given.",
        "plan.png",
        rule=picture(),
        group=OUTPUT,
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The contents of the report.

    Attributes:
      plan: The plan that was asked for.
      same_batch: Plans for other numbers of devices, at the plan's batch.
      same_images: Plans for other numbers of devices, at the plan's images per device.
      paying: Largest plan, at the plan's images per device, from which doubling pays, if any.
      paying_devices: Largest number of devices from which doubling pays at the plan's batch.
      recipe: Settings for the plan's batch, or None.
      no_recipe: Reason why there is no recipe, or "".
    """

    plan: Plan
    same_batch: list[Plan]
    same_images: list[Plan]
    paying: Plan | None
    paying_devices: int
    recipe: recipes.Recipe | None
    no_recipe: str


def define() -> None:
    """Defines the program's flags."""
    flags.define(PlanSettings)


def main() -> int:
    """Prints the plan and draws it."""
    settings = PlanSettings(**flags.values(PlanSettings))
    device = _device(settings)
    at = functools.partial(
        planner.predict,
        model=settings.model,
        accelerator=device,
        epochs=settings.epochs,
        num_examples=settings.num_examples,
        price_per_device_hour=settings.price_per_device_hour,
    )
    answer = _answer(at, _plan(settings, at, device), settings.optimizer)
    as_table = settings.format == "table"
    print(_as_text(answer) if as_table else json.dumps(_as_json(answer), indent=2), flush=True)
    if settings.picture and (as_table or flags.given(["picture"])):
        from tf_lars.planner import plan_picture

        plan_picture.draw(at, answer.plan, answer.paying, settings.picture)
        if as_table:
            print(f"\npicture in {settings.picture}")
    return EXIT_DONE


def _device(settings: PlanSettings) -> Device:
    """Returns the device that the settings name, describe or calibrate."""
    if settings.calibrate and not settings.flops:
        return planner.calibrate(
            settings.calibrate,
            accelerator=settings.accelerator,
            network=settings.network,
            algorithm=settings.all_reduce,
        )
    given = [n for n in ("accelerator", "flops", "calibrate") if getattr(settings, n)]
    if len(given) != 1:
        raise InputError(
            "The device must be given in one way: by --accelerator, one of "
            f"{', '.join(planner.accelerators())}; by --flops, --memory_bandwidth and --network; "
            f"or by --calibrate. Received: {_flags(given, ' and ') or 'none of them'}."
        )
    if settings.accelerator:
        return planner.device(settings.accelerator)
    return _described_device(settings)


def _described_device(settings: PlanSettings) -> planner.Hardware:
    """Returns the device that the settings describe by its data sheet."""
    flops, bandwidth, network = settings.flops, settings.memory_bandwidth, settings.network
    if not flops or not bandwidth or not network:
        needed = ("flops", "memory_bandwidth", "network")
        missing = _flags([name for name in needed if not getattr(settings, name)], " and no ")
        raise InputError(
            "Hardware is described by --flops, --memory_bandwidth and --network. Received: no "
            f"{missing}."
        )
    return planner.Hardware(
        flops=flops,
        memory_bandwidth=bandwidth,
        network=planner.network(network),
        algorithm=settings.all_reduce,
        node_network=planner.network(settings.node_network) if settings.node_network else None,
        devices_per_node=settings.devices_per_node,
        dtype=settings.dtype,
        gradient_dtype=settings.gradient_dtype,
        overlap=settings.overlap,
    )


def _flags(names: list[str], separator: str) -> str:
    return separator.join(f"--{name}" for name in names)


def _plan(settings: PlanSettings, at: search.Predictor, device: Device) -> Plan:
    """Returns the plan for the devices, or for the deadline."""
    devices, batch = settings.devices, settings.global_batch_size
    batches = search.batches(device, settings.largest_batch) if batch is None else _only(batch)
    if settings.deadline_minutes is not None:
        if devices is not None:
            raise InputError(
                "--deadline_minutes finds the number of devices. Received: "
                f"--devices={devices} as well. Leave one out."
            )
        return search.for_deadline(at, settings.deadline_minutes, batches)
    if devices is None:
        raise InputError("--devices or --deadline_minutes is required. Received: neither.")
    if batch is not None:
        return at(devices=devices, global_batch_size=batch)
    return search.quickest(at, devices, batches)


def _only(batch: int) -> search.Batches:
    return lambda devices: [batch] if batch % devices == 0 else []


def _answer(at: search.Predictor, plan: Plan, optimizer: str) -> Answer:
    same_batch, same_images = search.neighbours(at, plan)
    recipe, no_recipe = None, ""
    try:
        recipe = recipes.for_model(plan.model, plan.global_batch_size, optimizer)
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
    images = f"{plan.global_batch_size / plan.devices:,.4g} images per device"
    lines = [
        f"{plan.model} on {plan.devices:,} x {plan.accelerator}, global batch "
        f"{plan.global_batch_size:,}: {plan_table.planned_time(plan)}",
        *(f"note        {note}" for note in plan.notes),
        answer.recipe.describe() if answer.recipe else f"recipe      none: {answer.no_recipe}",
        "",
        plan_table.header(with_cost=plan.cost is not None),
        *(plan_table.row(p, marked=p == plan) for p in answer.same_batch),
        f"at {images}:",
        *(plan_table.row(p, marked=p == plan) for p in answer.same_images),
    ]
    if any(p.epochs_extrapolated for p in [*answer.same_batch, *answer.same_images]):
        lines.append("~ extrapolated beyond the largest batch with a published result")
    speedup = f"a speedup of at least {search.LEAST_SPEEDUP:g}"
    with_batch = f"At {images}, doubling devices and batch"
    if answer.paying:
        with_batch += (
            f" gives {speedup} up to a batch of {answer.paying.global_batch_size:,} "
            f"({answer.paying.devices:,} devices). Beyond that, a larger batch stops paying."
        )
    else:
        with_batch += f" never gives {speedup}."
    alone = "At this batch, doubling the devices"
    if answer.paying_devices:
        alone += (
            f" gives {speedup} up to {answer.paying_devices:,} devices. Beyond that, more devices "
            "stop paying."
        )
    else:
        alone += f" never gives {speedup}."
    return "\n".join([*lines, "", with_batch, alone])


if __name__ == "__main__":
    define()
    app.run(main)
