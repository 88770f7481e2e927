"""The training step of one replica as one XLA program, made without the devices it is for.

It is the step that `Trainer` takes on TPUs (`TrainingStep` with `in_one_program`): forward and
backward pass, metrics, the sum of the gradients over the replicas and the optimizer's update.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import gradients_reduced_by_caller
from tf_lars.training.batch import unpacker
from tf_lars.training.step import TrainingStep
from tf_lars.training.trainer import Trainer
from tf_lars.xla import program_check
from tf_lars.xla.exported_step import ExportedStep, Tensor
from tf_lars.xla.one_of_many import OneOfMany

_ALIAS = re.compile(r"\{alias = \{[^}]*parameter_number = (\d+)[^}]*\}")
_UNSUPPORTED = re.compile(r"(\w+) \(No registered '")
_LINE = re.compile(r"File \"([^\"]+)\", line (\d+)")
_LIBRARIES = tuple(os.path.dirname(os.path.abspath(m.__file__)) for m in (tf, keras))


class StepProgram:
    """The step of one replica as one program.

    Args:
      model: Compiled model, made in the scope of `strategy`; it is built here.
      strategy: The replica's strategy.
      element: Specification of a replica's element of the data, as in
        `tf.data.Dataset.element_spec`, of static shapes.
      prepare_batch: See `Trainer`.
      micro_batch_size: Number of examples that the replica processes at a time; None for all.
      reduction_dtype: See `Trainer`.
      observe_parts: Whether the norms of the gradients of parts are computed too.

    Attributes:
      model: The model. What it computes may be changed until the program is lowered.

    Raises:
      InputError: The model or the data cannot be trained.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: OneOfMany,
        element: Any,
        *,
        prepare_batch: Callable[[Any], tuple[Any, Any, Any]] | None = None,
        micro_batch_size: int | None = None,
        reduction_dtype: str | None = None,
        observe_parts: bool = False,
    ):
        specs = tf.nest.flatten(element)
        if not all(spec.shape.is_fully_defined() for spec in specs):
            raise InputError(
                "A batch must have a static shape, for XLA to compile the step. Received: "
                f"{element}. Batch with drop_remainder=True."
            )
        prepare = prepare_batch or keras.utils.unpack_x_y_sample_weight
        Trainer(model, strategy, prepare_batch=prepare).build(element)
        self._strategy = strategy
        self.model = model
        self._element = element
        step = TrainingStep(
            model,
            strategy,
            unpacker(prepare),
            micro_batch_size=micro_batch_size,
            reduction_dtype=reduction_dtype,
            observe_parts=observe_parts,
            in_one_program=True,
        )

        def run(*flat):
            with gradients_reduced_by_caller(model.optimizer):
                return step.whole_step(tf.nest.pack_sequence_as(element, flat))

        self._specs, self._run = specs, run
        self._function = tf.function(run, jit_compile=True)
        self._concrete: Any = None

    def lowered(self, stage: str) -> Any:
        """Returns the program before optimisation.

        Args:
          stage: "stablehlo" or "hlo_serialized".

        Raises:
          InputError: The step has an operation that no accelerator has; the message names it and
            the line of Python that made it.
        """
        try:
            self._trace()
            return self._function.experimental_get_compiler_ir(*self._specs)(stage=stage)
        except (ValueError, tf.errors.OpError) as error:
            if isinstance(error, InputError):
                raise
            raise _refusal(str(error)) from error

    def operations(self) -> set[str]:
        """Returns the types of TensorFlow's operations in the program, before XLA."""
        self._trace()
        graph = self._concrete.graph.as_graph_def()
        nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
        return {node.op for node in nodes}

    def _trace(self) -> None:
        if self._concrete is None:
            self._strategy.extended.all_reduced.clear()
            self._concrete = self._function.get_concrete_function(*self._specs)

    def check(self) -> str:
        """Checks that an accelerator could run the program, and returns its StableHLO.

        Raises:
          InputError: It could not; the message names the operations and the lines of Python.
        """
        text = self.lowered("stablehlo")
        found = program_check.problems(text)
        if found:
            told = [f"{p.kind} by {p.name or p.operation}{self._where(p.name)}" for p in found[:5]]
            raise InputError(
                "The step must have static shapes and no operations of the host, for an "
                f"accelerator. Received: {'; '.join(told)}. Replace these operations."
            )
        return text

    def exported(
        self,
        about: Mapping[str, Any],
        *,
        whole: "StepProgram | None" = None,
        values: Mapping[str, np.ndarray] | None = None,
    ) -> ExportedStep:
        """Returns the program with what its inputs and outputs are.

        Args:
          about: See `ExportedStep`; the number of replicas and the time are added.
          whole: The same step without micro-batches, if it has any.
          values: See `ExportedStep`.

        Raises:
          InputError: See `check`.
        """
        start = time.perf_counter()
        aliases = _ALIAS.findall(self.check().partition("func.func")[0])
        hlo = self.lowered("hlo_serialized")
        arguments = [
            _tensor(name, spec)
            for name, spec in zip(_paths(self._element), self._specs, strict=True)
        ]
        state = [tensor for tensor, _ in self._state()]
        results = tf.nest.flatten(self._concrete.structured_outputs)
        changed = [int(number) - len(arguments) for number in aliases]
        gradients = [_tensor(v.path, native_variable(v)) for v in self.model.trainable_variables]
        return ExportedStep(
            arguments=tuple(arguments),
            state=tuple(state),
            results=tuple(_tensor(f"result_{i}", one) for i, one in enumerate(results)),
            changed=tuple(changed),
            gradient_bytes=sum(tensor.bytes for tensor in gradients),
            all_reduces=tuple(self._strategy.extended.all_reduced),
            about={
                **about,
                "num_replicas": self._strategy.num_replicas_in_sync,
                "export_seconds": time.perf_counter() - start,
            },
            hlo=hlo,
            whole_hlo=whole.lowered("hlo_serialized") if whole else None,
            values=values or {},
        )

    def take_step(self, element: Any) -> None:
        """Takes a step of a single replica in TensorFlow, without XLA.

        Args:
          element: Values in the place of the specification.
        """
        tf.function(self._run)(*tf.nest.flatten(element))

    def state_values(self) -> dict[str, np.ndarray]:
        """Returns the values of the state now, by name."""
        self._trace()
        return {tensor.name: value.numpy() for tensor, value in self._state()}

    def set_state(self, values: Mapping[str, np.ndarray]) -> None:
        """Assigns the values of `state_values` to the variables; constants are left out."""
        for tensor, value in self._state():
            if isinstance(value, tf.Variable):
                value.assign(values[tensor.name])

    def _state(self) -> Iterator[tuple[Tensor, tf.Variable | tf.Tensor]]:
        """Yields the variables and constants that the program captures, in its order."""
        found = {}
        for variable in self._keras_variables():
            native = native_variable(variable)
            found[id(native.handle)] = (_path(variable), native)
        for i, captured in enumerate(self._concrete.captured_inputs):
            name, value = found.get(id(captured), (f"constant_{i}", captured))
            yield _tensor(name, value), value

    def _keras_variables(self) -> Iterable[Any]:
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", None)
        yield from self.model.variables
        yield from self.model.metrics_variables
        yield from optimizer.variables
        yield from inner.variables if inner else []

    def _where(self, name: str) -> str:
        """Returns the line of Python that made an operation, in words; "" if it is unknown."""
        for operation in self._concrete.graph.get_operations() if name else []:
            if operation.name == name:
                lines = [
                    f"{frame.filename}:{frame.lineno}"
                    for frame in operation.traceback
                    if not os.path.abspath(frame.filename).startswith(_LIBRARIES)
                ]
                return f" ({lines[-1]})" if lines else ""
        return ""


def _refusal(message: str) -> InputError:
    """Returns the error for a step that TensorFlow could not lower."""
    operation, lines = _UNSUPPORTED.search(message), _LINE.findall(message)
    where = f" ({':'.join(lines[-1])})" if lines else ""
    what = f"the operation {operation[1]} of the host" if operation else message[:300]
    return InputError(
        "The step must consist of operations that accelerators have, with static shapes. "
        f"Received: {' '.join(what.split()).rstrip('.')}{where}. Replace it, or move it to the "
        "input."
    )


def _paths(structure: Any, prefix: str = "") -> Iterator[str]:
    """Yields a name for each leaf, in the order of `tf.nest.flatten`."""
    if isinstance(structure, Mapping):
        children: Iterable[tuple[Any, Any]] = sorted(structure.items())
    elif isinstance(structure, list | tuple):
        children = enumerate(structure)
    else:
        yield prefix.rstrip("/") or "element"
        return
    for key, child in children:
        yield from _paths(child, f"{prefix}{key}/")


def _path(variable: Any) -> str:
    return getattr(variable, "path", variable.name)


def _tensor(name: str, like: Any) -> Tensor:
    return Tensor(name, tuple(like.shape), like.dtype.name if hasattr(like.dtype, "name") else "")
