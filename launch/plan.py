"""Predicts the time to train before any machine is rented: a table of plans and a picture.

python -m launch.plan --accelerator=A100-SXM --devices=64 --global_batch_size=16384
"""

import dataclasses
import functools
import json

from launch.cli import app, flags
from tf_lars import planner
from tf_lars.errors import EXIT_DONE, InputError, some
from tf_lars.planner import communication, compiled_steps, plan_answer, reference_run, search
from tf_lars.planner.device_memory import DeviceMemory
from tf_lars.planner.devices import Device
from tf_lars.planner.prediction import Plan
from tf_lars.planner.reference_run import Scaling
from tf_lars.planner.workloads import name_at
from tf_lars.recipes import recipes
from tf_lars.setting import MOST_EPOCHS, above, batch_size, check, one_of, picture, setting, within

PLAN, OWN_DATA, HARDWARE, OUTPUT = "What to plan", "Your own data", "Hardware", "Output"
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
        "Training examples per epoch. With --critical_batch, defaults to those of the run.",
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
    critical_batch: str | None = setting(
        "Plans for your own data, by the runs in --calibrate and the batch at which twice the "
        "examples are needed: a number, a file written by launch.critical_batch, or auto: "
        "critical_batch.json in the first run's folder, else the last noise scale in its "
        "metrics.jsonl.",
        None,
        group=OWN_DATA,
    )
    target_top1: float | None = setting(
        "Top-1 accuracy of validation to plan for; a run in --calibrate must have reached it. "
        "Defaults to what the first run had reached when it ended.",
        None,
        rule=above(0, 1),
        group=OWN_DATA,
    )
    target_loss: float | None = setting(
        "Instead of --target_top1: a loss of validation.",
        None,
        rule=above(0, 1e9),
        group=OWN_DATA,
    )
    accelerator: str | None = setting(
        f"Device family with published results: {', '.join(planner.accelerators())}; or by its "
        f"data sheet, not measured: {', '.join(planner.unmeasured_accelerators())}. With "
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
    memory: str | None = setting(
        "File of launch.compile_for, by which a batch is refused that does not fit into the memory "
        "of a device; also without it for the models and devices that come with the package.",
        None,
        group=HARDWARE,
    )
    micro_batch_size: int | None = setting(
        "Images that a device processes at a time, for its memory.",
        None,
        rule=batch_size(),
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


def define() -> None:
    """Defines the program's flags."""
    flags.define(PlanSettings)


def main() -> int:
    """Prints the plan and draws it."""
    settings = PlanSettings(**flags.values(PlanSettings))
    device = _device(settings)
    scaling = _scaling(settings)
    num_examples: float = settings.num_examples
    if scaling and not flags.given(["num_examples"]):
        num_examples = scaling.run.examples_per_epoch
    at = functools.partial(
        planner.predict,
        model=settings.model,
        accelerator=device,
        epochs=settings.epochs,
        examples_needed=scaling.needed if scaling else None,
        num_examples=num_examples,
        price_per_device_hour=settings.price_per_device_hour,
    )
    memory = _memory(settings, device)
    plan = _plan(settings, at, device, memory)
    remarks: tuple[str, ...] = ()
    if memory:
        images = plan.global_batch_size / plan.devices
        remarks = (f"memory: {memory.check(images, settings.micro_batch_size)}",)
    answer = plan_answer.answer(
        at,
        plan,
        optimizer=settings.optimizer,
        scaling=scaling,
        deadline_minutes=settings.deadline_minutes,
        remarks=remarks,
    )
    as_table = settings.format == "table"
    text = plan_answer.as_text(answer) if as_table else _as_json(answer)
    print(text, flush=True)
    if settings.picture and (as_table or flags.given(["picture"])):
        from tf_lars.planner import plan_picture

        plan_picture.draw(at, answer.plan, answer.paying, settings.picture)
        if as_table:
            print(f"\npicture in {settings.picture}")
    return EXIT_DONE


def _as_json(answer: plan_answer.Answer) -> str:
    return json.dumps(plan_answer.as_json(answer), indent=2)


def _scaling(settings: PlanSettings) -> Scaling | None:
    """Returns the examples that a batch needs on the user's data, or None for published data."""
    if settings.critical_batch is None:
        targets = [n for n in ("target_top1", "target_loss") if getattr(settings, n) is not None]
        if targets:
            raise InputError(
                f"A target is for plans by --critical_batch. Received: {_flags(targets, ' and ')} "
                "without. Add --critical_batch and --calibrate, or leave it out."
            )
        return None
    if not settings.calibrate or settings.epochs is not None:
        received = "no --calibrate" if not settings.calibrate else f"--epochs={settings.epochs:g}"
        raise InputError(
            "--critical_batch computes the epochs from the runs in --calibrate. Received: "
            f"{received}. Name a run that has reached your target, and leave out --epochs."
        )
    return reference_run.scaling(
        settings.calibrate,
        settings.critical_batch,
        target_top1=settings.target_top1,
        target_loss=settings.target_loss,
    )


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
        named = planner.device(settings.accelerator)
        return _adjusted(named, settings) if isinstance(named, planner.Hardware) else named
    return _described_device(settings)


def _adjusted(device: planner.Hardware, settings: PlanSettings) -> planner.Hardware:
    """Returns an accelerator known by its data sheet, with what the user has said about it."""
    networks = ("network", "node_network")
    others = ("devices_per_node", "dtype", "gradient_dtype", "overlap")
    changed = {name: getattr(settings, name) for name in flags.given([*networks, *others])}
    changed |= {name: planner.network(changed[name]) for name in networks if name in changed}
    if flags.given(["all_reduce"]):
        changed["algorithm"] = settings.all_reduce
    return dataclasses.replace(device, **changed)


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


def _memory(settings: PlanSettings, device: Device) -> DeviceMemory | None:
    """Returns what is known of the memory that the model needs on the device."""
    model = settings.model or device.measured_on.name
    known = functools.partial(
        DeviceMemory.of, model=model, accelerator=device.name, precision=settings.dtype
    )
    if settings.memory is None:
        return known(compiled_steps.packaged())
    steps = compiled_steps.read(settings.memory)
    memory = known(steps)
    if memory is None:  # the package may know the model, but was not asked
        found = sorted(
            {f"{name_at(s.model, s.image_size)} in {s.precision} on {s.accelerator}" for s in steps}
        )
        raise InputError(
            "--memory must be of the planned model and device. Received: "
            f"{settings.memory!r}, without steps of {model} in {settings.dtype} on {device.name}; "
            f"it has {some(found) or 'none'}. Compile them, or leave it out."
        )
    return memory


def _plan(
    settings: PlanSettings, at: search.Predictor, device: Device, memory: DeviceMemory | None
) -> Plan:
    """Returns the plan for the devices, or for the deadline."""
    devices, batch = settings.devices, settings.global_batch_size
    if batch is not None:
        batches = _only(batch)
    else:
        batches = search.batches(device, settings.largest_batch)
        if memory and not settings.micro_batch_size:
            batches = _that_fit(batches, memory)
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


def _that_fit(batches: search.Batches, memory: DeviceMemory) -> search.Batches:
    return lambda devices: [b for b in batches(devices) if memory.fits(b / devices)]


def _only(batch: int) -> search.Batches:
    return lambda devices: [batch] if batch % devices == 0 else []


if __name__ == "__main__":
    define()
    app.run(main)
