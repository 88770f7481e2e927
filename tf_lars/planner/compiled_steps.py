"""Steps that XLA has compiled for devices: the memory that they need, and what they compute.

`launch.compile_for` writes them as JSON, `{"format": 1, "steps": [...]}` with the fields of
`CompiledStep`, or as CSV with these columns; the planner refuses a batch that does not fit by them.
The steps in compiled_steps.csv come with the package.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError, require
from tf_lars.packaged_csv import rows
from tf_lars.setting import at_least, flag, kinds, number, parse, whole_number

FORMAT = 1
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A training step of a replica, compiled for a target. All bytes are those of one device.

    Attributes:
      target: Name of the target, such as "h100_sxm:8".
      accelerator: The planner's name of the device.
      devices: Number of replicas.
      model, image_size, optimizer, precision: Settings of the run, by the values of its flags.
      per_replica_batch_size: Examples of a device in each step.
      micro_batch_size: Examples that it processes at a time; None for all.
      fits: Whether the memory suffices.
      peak_bytes: Memory that is needed: arguments, outputs that are not updated in place,
        temporaries and code; None if the compiler does not say by how much it is too small.
      device_bytes: Memory of the device.
      argument_bytes, output_bytes, alias_bytes, temporary_bytes, code_bytes: Its parts; None where
        the compiler has ended without them. `alias_bytes` are outputs in the place of arguments.
      updated_in_place: Whether weights, momentum and statistics are.
      flops: Operations of a step; None if the module could not be counted.
      bytes_accessed: Bytes read and written by a step after fusion; None for micro-batches, whose
        loop the compiler counts once, and where it has ended before.
      all_reduces, all_reduce_bytes: Number of all-reduces, and their bytes.
      gradient_bytes: Bytes of the gradients among these.
      parameters: Number of trained and other weights of the model.
      forward_flops: Operations of a forward pass of an image, as the model counts them.
      export_seconds, compile_seconds: Time taken.
      versions: Versions of what has compiled it.
    """

    target: str
    accelerator: str
    devices: int
    model: str
    image_size: int
    optimizer: str
    precision: str
    per_replica_batch_size: int
    micro_batch_size: int | None
    fits: bool
    peak_bytes: int | None
    device_bytes: int
    argument_bytes: int | None
    output_bytes: int | None
    alias_bytes: int | None
    temporary_bytes: int | None
    code_bytes: int | None
    updated_in_place: bool | None
    flops: float | None
    bytes_accessed: float | None
    all_reduces: int | None
    all_reduce_bytes: int | None
    gradient_bytes: int
    parameters: int
    forward_flops: float
    export_seconds: float
    compile_seconds: float
    versions: str

    @property
    def of_run(self) -> tuple[str, int, str, str, int | None]:
        """What the step is of, but for the batch and the devices."""
        return (
            self.model,
            self.image_size,
            self.optimizer,
            self.precision,
            self.micro_batch_size,
        )

    @property
    def key(self) -> tuple:
        """What the step is of."""
        return (self.target, *self.of_run, self.per_replica_batch_size)

    @property
    def images_at_once(self) -> int:
        """Examples that a device processes at a time."""
        return self.micro_batch_size or self.per_replica_batch_size

    @property
    def arithmetic_intensity(self) -> float | None:
        """Operations per byte read or written."""
        if self.flops is None or not self.bytes_accessed:
            return None
        return self.flops / self.bytes_accessed


def write_json(path: str, steps: Sequence[CompiledStep]) -> None:
    """Writes steps as JSON, atomically.

    Raises:
      InputError: The file cannot be written.
    """
    listed = [dataclasses.asdict(step) for step in steps]
    files.write_json(path, {"format": FORMAT, "steps": listed})


def write_csv(path: str, steps: Sequence[CompiledStep]) -> None:
    """Writes steps as CSV, atomically; None is an empty field.

    Raises:
      InputError: The file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_KINDS)
    for step in steps:
        values = dataclasses.asdict(step).values()
        table.writerow(["" if value is None else value for value in values])
    files.write_whole(path, text.getvalue().encode())


def read(path: str) -> list[CompiledStep]:
    """Returns the steps in a file of JSON or, by its ending, CSV.

    Raises:
      InputError: The file cannot be read, or is of another format.
    """
    try:
        with files.reading(path), files.open_file(path, "r") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise _refused(path, error) from error
    try:
        if path.endswith(".csv"):
            return _from_rows(csv.DictReader(text.splitlines()))
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return [_step(entry) for entry in content["steps"]]
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        csv.Error,
    ) as error:
        raise _refused(path, error) from error


def _refused(path: str, error: Exception) -> InputError:
    reason = str(error) if isinstance(error, InputError) else repr(error)
    return InputError(
        "A file of compiled steps must be as launch.compile_for writes it. Received: "
        f"{path!r} ({' '.join(reason.split())[:300].rstrip('.')}). Write it anew."
    )


def packaged() -> list[CompiledStep]:
    """Returns the steps that come with the package."""
    return _from_rows(rows(__package__, "compiled_steps.csv"))


_KINDS = kinds(CompiledStep)
_POSITIVE = (
    "devices",
    "image_size",
    "per_replica_batch_size",
    "micro_batch_size",
    "device_bytes",
)


def _step(entry: Mapping[str, Any]) -> CompiledStep:
    """Returns a step from values, whose types and ranges are checked."""
    return CompiledStep(**{name: _checked(name, value) for name, value in entry.items()})


def _checked(name: str, value: Any) -> Any:
    allowed, what = _KINDS[name], f"`{name}`"
    if value is None and NoneType in allowed:
        return None
    if str in allowed:
        require(isinstance(value, str), what, "text", value)
        return value
    if bool in allowed:
        return flag(what, value)
    rule = at_least(1 if name in _POSITIVE else 0)
    return (whole_number if int in allowed else number)(what, value, rule)


def _from_rows(table: Iterable[dict[str, str]]) -> list[CompiledStep]:
    return [_step({name: _value(name, text) for name, text in row.items()}) for row in table]


def _value(name: str, text: str | None) -> Any:
    """Returns the value of a cell; a row that ends too early has None there."""
    allowed = _KINDS[name]
    require(text is not None, f"`{name}`", "in every row", text)
    assert text is not None
    return None if text == "" and NoneType in allowed else parse(text, allowed)
