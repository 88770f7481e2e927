"""A training step as one XLA program in a file, which neither TensorFlow nor Keras is needed for.

The file is a ZIP archive:

| member | contents |
|---|---|
| `step.json` | everything of `ExportedStep` but the members below |
| `step.hlo` | the program of one replica, as a serialised `HloModuleProto` |
| `whole.hlo` | the same without micro-batches, to count operations; only where the step has them |
| `values.npz` | values of the inputs, and what TensorFlow makes of them; optional |
"""

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_lars import files
from tf_lars.errors import InputError

FORMAT = 1

_BYTES = {"bool": 1, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of the program.

    Attributes:
      name: Name of the argument, the variable or the result.
      shape: Its shape.
      dtype: Its type, by TensorFlow's name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size, without padding."""
        return math.prod(self.shape) * (_BYTES.get(self.dtype) or np.dtype(self.dtype).itemsize)


@dataclasses.dataclass(frozen=True)
class ExportedStep:
    """The training step of one replica.

    Attributes:
      arguments: What a step takes beside the state: an element of the data.
      state: Variables, which follow the arguments as inputs.
      results: Outputs before the state.
      changed: Indices of the variables in `state` that are outputs too, in their order.
      gradient_bytes: Bytes of the gradients that are summed over the replicas.
      all_reduces: Bytes and number of tensors of each all-reduce of the program.
      about: What the step is of: `model`, `optimizer`, `image_size`, `mixed_precision`,
        `num_replicas`, `per_replica_batch_size`, `micro_batch_size` (None for all), `parameters`,
        `forward_flops` of an image, `versions`, `export_seconds`.
      hlo: The program.
      whole_hlo: The program without micro-batches; None if it has none.
      values: Values by name: those of arguments and state before the first step, and those of the
        state after n steps in TensorFlow as `after_n/NAME`, with the losses as `loss_n`.
    """

    arguments: tuple[Tensor, ...]
    state: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    changed: tuple[int, ...]
    gradient_bytes: int
    all_reduces: tuple[tuple[int, int], ...]
    about: Mapping[str, Any]
    hlo: bytes = b""
    whole_hlo: bytes | None = None
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def num_replicas(self) -> int:
        """Number of replicas that the program is for."""
        return self.about["num_replicas"]

    @property
    def state_bytes(self) -> int:
        """Bytes of the variables that a step changes."""
        return sum(self.state[i].bytes for i in self.changed)


def write(path: str, step: ExportedStep) -> None:
    """Writes the file, atomically.

    Raises:
      InputError: It cannot be written.
    """
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    members = {name: fields.pop(name) for name in ("hlo", "whole_hlo", "values")}
    for name in ("arguments", "state", "results"):
        fields[name] = [dataclasses.asdict(tensor) for tensor in fields[name]]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("step.json", json.dumps({"format": FORMAT, **fields}, indent=1))
        archive.writestr("step.hlo", members["hlo"])
        if members["whole_hlo"] is not None:
            archive.writestr("whole.hlo", members["whole_hlo"])
        if members["values"]:
            arrays = io.BytesIO()
            np.savez(arrays, **members["values"])
            archive.writestr("values.npz", arrays.getvalue())
    files.write_whole(path, content.getvalue())


def read(path: str) -> ExportedStep:
    """Returns the step in a file.

    Raises:
      InputError: The file cannot be read, or holds something else.
    """
    with files.reading(path), files.open_file(path, "rb") as file:
        content = file.read()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            fields = json.loads(archive.read("step.json"))
            if fields.pop("format") != FORMAT:
                raise ValueError("another format")
            names = archive.namelist()
            whole = archive.read("whole.hlo") if "whole.hlo" in names else None
            values: dict[str, np.ndarray] = {}
            if "values.npz" in names:
                with np.load(io.BytesIO(archive.read("values.npz"))) as arrays:
                    values = dict(arrays)
            for name in ("arguments", "state", "results"):
                fields[name] = _tensors(fields[name])
            fields["changed"] = tuple(fields["changed"])
            fields["all_reduces"] = tuple(map(tuple, fields["all_reduces"]))
            hlo = archive.read("step.hlo")
        return ExportedStep(**fields, hlo=hlo, whole_hlo=whole, values=values)
    except Exception as error:  # each library has errors of its kind for damaged bytes
        raise InputError(
            f"The file must be a step that launch.compile_for has exported. Received: {path!r} "
            f"({' '.join(repr(error).split())[:300]}). Export it again."
        ) from error


def _tensors(listed: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(t["name"], tuple(t["shape"]), t["dtype"]) for t in listed)
