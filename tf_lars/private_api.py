"""Every use of private Keras and TensorFlow API, one function for each.

Checked with Keras 3.10 to 3.15 and TensorFlow 2.19 to 2.21. What these functions rely on is listed
in `KERAS_NAMES`, `OPTIMIZER_HOOKS` and `TENSORFLOW_NAMES`; `tests/test_private_api.py` looks each
name up and says which one has moved when a new release changes it.
"""

# Keras 2 lacks some of the types named here; `tf_lars.optimizers.lars` then says what is missing.
from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

CONFIG = "tensorflow.python.framework.config"
EAGER = "tensorflow.python.eager.context"
LOSS_SCALES = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
"""Functions of Keras that divide losses by the number of replicas, and multiply them."""

KERAS_NAMES = {
    # On a compiled and built model.
    "model": (
        "_call_has_training_arg",
        "_compile_loss",
        "_compile_metrics",
        "_compute_loss",
        "_distribute_strategy",
        "_flatten_layers",
        "_initial_epoch",
        "_loss_tracker",
        "_symbolic_build",
    ),
    "model._compile_loss": ("_flat_losses", "metrics"),
    "model._compile_metrics": ("_flat_metrics", "_flat_weighted_metrics", "_flatten_y", "build"),
    "layer": ("_seed_generators",),
    "optimizer": (
        "_all_reduce_sum_gradients",
        "_model_variables_moving_average",
        "_trainable_variables",
    ),
    # Replaced by `tf_lars.distribute.keras_fit`.
    "keras.src.backend.tensorflow.optimizer.TFOptimizer": ("_all_reduce_sum_gradients",),
    "keras.src.backend.tensorflow.trainer": ("reduce_per_replica",),
    "keras.src.backend.tensorflow.trainer.TensorFlowTrainer": (
        "_make_function",
        "_maybe_symbolic_build",
        "evaluate",
        "fit",
        "predict",
        "predict_on_batch",
        "test_on_batch",
        "train_on_batch",
    ),
    "keras.src.backend.tensorflow.trainer.TFEpochIterator": ("__init__", "_enumerate_iterator"),
    "keras.src.losses.loss": (*LOSS_SCALES, "reduce_values", "reduce_weighted_values"),
    "keras.src.trainers.data_adapters.array_data_adapter": ("ArrayDataAdapter",),
    "keras.src.trainers.data_adapters.py_dataset_adapter": ("PyDatasetAdapter",),
    "keras.src.trainers.data_adapters.tf_dataset_adapter": ("TFDatasetAdapter",),
}
"""Private names of Keras, by the object that has them."""

OPTIMIZER_HOOKS = (
    "_accumulated_gradients",
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_clip_gradients",
    "_distributed_tf_update_step",
    "_distribution_strategy",
    "_get_current_learning_rate",
    "_get_variable_index",
    "_iterations",
    "_learning_rate",
    "_overwrite_variable_with_gradient",
)
"""What `tf_lars.LARS` overrides in, or takes from, `keras.optimizers.Optimizer`."""

TENSORFLOW_NAMES = {
    "tensorflow.python.data.ops.multi_device_iterator_ops": ("_create_device_dataset",),
    "tensorflow.core.protobuf.trackable_object_graph_pb2": ("TrackableObjectGraph",),
    EAGER: ("async_wait", "context"),
    CONFIG: ("is_op_determinism_enabled",),
    f"{EAGER}.Context": ("abort_collective_ops", "report_error_to_cluster"),
    "tensorflow.__internal__.distribute.interim": ("maybe_merge_call",),
}
"""Private names of TensorFlow, by module."""


def call_model(model: keras.Model, x: Any, *, training: bool) -> Any:
    """Calls a model, whether or not its `call` takes `training`."""
    return model(x, training=training) if model._call_has_training_arg else model(x)


def build_model(model: keras.Model, batch: Any) -> None:
    """Creates all variables of a compiled model, its metrics and its optimizer.

    Args:
      model: compiled.
      batch: `(x, y, sample_weight)` as symbolic tensors; their values are not looked at.
    """
    model._symbolic_build(data_batch=batch)


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers of a model or a layer, itself and those in nested ones included."""
    return list(model._flatten_layers())


def random_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of the seed generators of a model's layers, each once."""
    generators = [g for layer in layers_of(model) for g in layer._seed_generators]
    return list({id(g): g.state for g in generators}.values())


def compute_loss(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, *, training: bool
) -> tf.Tensor:
    """Returns a model's loss as Keras's `fit` does, also where its own takes no `training`."""
    return model._compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )


@functools.cache
def replace_loss_reduction(
    is_active: Callable[[], bool],
    mean: Callable[[Any, Any, Any, Any], tf.Tensor],
    per_batch: Callable[[tf.Tensor], tf.Tensor],
) -> None:
    """Makes Keras's losses call other functions where these are active, from now on.

    Where they are not, losses are Keras's own. The replacement stays, since replicas may be traced
    in several threads at once.

    Args:
      is_active: Function that returns whether this thread uses the others.
      mean: Function from values, sample weights, mask and type of a loss to its mean.
      per_batch: Function from a mean to what the tracker of an output's loss adds, times the number
        of examples.
    """
    from keras.src.losses import loss as module

    own = {name: getattr(module, name) for name in (*LOSS_SCALES, "reduce_weighted_values")}

    def reduce_weighted_values(
        values, sample_weight=None, mask=None, reduction="sum_over_batch_size", dtype=None
    ):
        is_mean = reduction in ("sum_over_batch_size", "mean")
        if is_active() and is_mean and tf.convert_to_tensor(values).shape.rank != 0:
            return mean(values, sample_weight, mask, dtype)
        return own["reduce_weighted_values"](values, sample_weight, mask, reduction, dtype)

    def scale_loss_for_distribution(value):
        return value if is_active() else own["scale_loss_for_distribution"](value)

    def unscale_loss_for_distribution(value):
        return per_batch(value) if is_active() else own["unscale_loss_for_distribution"](value)

    module.reduce_weighted_values = reduce_weighted_values
    module.scale_loss_for_distribution = scale_loss_for_distribution
    module.unscale_loss_for_distribution = unscale_loss_for_distribution


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Returns the metric that averages a model's loss."""
    return model._loss_tracker


def losses_of(model: keras.Model) -> list[Any]:
    """Returns the losses that a model was compiled with, one entry per output."""
    compiled = model._compile_loss
    # Up to Keras 3.6 the name is another, and the entries are the losses themselves. Where the
    # model's own compute_loss has not asked for them, there are none.
    entries = getattr(compiled, "_flat_losses", None) or getattr(compiled, "flat_losses", None)
    return [getattr(entry, "loss", entry) for entry in entries or ()]


def compiled_parts(model: keras.Model) -> list[Any]:
    """Returns what `compile` sets anew: the optimizer, the losses and the metrics."""
    return [model.optimizer, model._compile_loss, model._compile_metrics]


def results_of(model: keras.Model) -> dict[str, tf.Tensor]:
    """Returns the values of a model's metrics, the losses of single outputs among them.

    These are divided by the number of examples that the loss of all outputs counts: Keras would
    count padding.
    """
    count = tf.convert_to_tensor(loss_tracker(model).count)
    outputs = {
        metric.name: tf.math.divide_no_nan(tf.convert_to_tensor(metric.total), count)
        for metric in getattr(model._compile_loss, "metrics", ())
    }
    return model.get_metrics_result() | outputs


def update_metrics(
    model: keras.Model, y: Any, y_pred: Any, sample_weight: Any, real: tf.Tensor | None
) -> None:
    """Adds a batch to all compiled metrics.

    Args:
      model: compiled.
      y: Targets.
      y_pred: Outputs of the model.
      sample_weight: Weights for what `compile(weighted_metrics=...)` names.
      real: 1 for each example that counts and 0 for padding, or None.
    """
    compiled = model._compile_metrics
    if compiled is None:
        return
    if not compiled.built:
        compiled.build(y, y_pred)
    targets, outputs = compiled._flatten_y(y), compiled._flatten_y(y_pred)
    weights = [None] if sample_weight is None else compiled._flatten_y(sample_weight)
    if len(weights) < len(outputs):
        weights = [weights[0]] * len(outputs)
    for metrics, weighted in (
        (compiled._flat_metrics, False),
        (compiled._flat_weighted_metrics, True),
    ):
        # Keras up to 3.12 lists fewer entries than outputs where there are no metrics.
        for metric, target, output, weight in zip(metrics, targets, outputs, weights, strict=False):
            if metric is None:
                continue
            if not weighted or weight is None:
                weight = real
            elif real is not None:
                weight *= tf.reshape(real, [-1] + [1] * (weight.shape.rank - 1))
            # Without weights, so that a metric need not take any.
            metric.update_state(target, output, *([] if weight is None else [weight]))


def strategy_of(model: keras.Model) -> tf.distribute.Strategy | None:
    """Returns the strategy in whose scope a model was made, or None."""
    return model._distribute_strategy


def moving_averages(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Returns the trainable variables of which an optimizer keeps an average, each with it."""
    averages = optimizer._model_variables_moving_average
    pairs = zip(optimizer._trainable_variables, averages, strict=True)
    return [(variable, average) for variable, average in pairs if average is not None]


@contextlib.contextmanager
def gradients_reduced_by_caller(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps a Keras optimizer from summing gradients over the replicas once more.

    Keras clips before it reduces, which moves the weights further than the clip allows, and
    reduces in one pack. Reduced gradients given to `apply` are clipped as they should be.
    """
    wrapped = getattr(optimizer, "inner_optimizer", None)
    optimizers = [optimizer] if wrapped is None else [optimizer, wrapped]
    for one in optimizers:
        one._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    try:
        yield
    finally:
        for one in optimizers:
            del one._all_reduce_sum_gradients


def variables_in_checkpoint(path: str, children: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the variables listed below an object of a `tf.train.Checkpoint`.

    Args:
      path: Path of the checkpoint, without the ending of a file.
      children: Names of the objects from the root to one that lists variables.

    Returns:
      TensorFlow's name of each variable, which it may share with others, and the key of its value,
      in the order of the list; nothing if the checkpoint has no such object.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tf.train.load_checkpoint(path)
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    node = graph.nodes[0]
    for name in children:
        found = {child.local_name: child.node_id for child in node.children}
        if name not in found:
            return []
        node = graph.nodes[found[name]]
    listed = sorted((int(c.local_name), c.node_id) for c in node.children if c.local_name.isdigit())
    attributes = [graph.nodes[number].attributes for _, number in listed]
    return [(values[0].full_name, values[0].checkpoint_key) for values in attributes if values]


def merge_call(function: Callable, *arguments: Any) -> Any:
    """Calls `function(strategy, *arguments)` for all replicas together, from each of them."""
    strategy = tf.distribute.get_strategy()
    interim = tf.__internal__.distribute.interim
    return interim.maybe_merge_call(function, strategy, *arguments)


def finish_assignments() -> None:
    """Waits until hosts that this process drives, as on TPU slices, have made its assignments.

    Assignments outside a `tf.function` return before they are made there, and a function that is
    called next may run before them. Where no host is driven, this takes microseconds.
    """
    importlib.import_module(EAGER).async_wait()


def is_deterministic() -> bool:
    """Returns whether TensorFlow refuses operations whose results may differ, such as the time."""
    return importlib.import_module(CONFIG).is_op_determinism_enabled()


def is_multi_worker(strategy: tf.distribute.Strategy | None) -> bool:
    """Returns whether a strategy joins several worker processes."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


@contextlib.contextmanager
def device_datasets_changed_by(change: Callable) -> Iterator[None]:
    """Within this context, the datasets that hand each device its batches pass through `change`.

    They are TensorFlow's own (tensorflow/python/data/ops/multi_device_iterator_ops.py), and take
    no options of the dataset that is distributed.
    """
    from tensorflow.python.data.ops import multi_device_iterator_ops as module

    create = module._create_device_dataset
    module._create_device_dataset = lambda *arguments: change(create(*arguments))
    try:
        yield
    finally:
        module._create_device_dataset = create


def configure_heartbeat(num_workers: int, *, register_seconds: int, heartbeat_seconds: int) -> None:
    """Sets TensorFlow's heartbeat as MultiWorkerMirroredStrategy would, with other limits.

    The strategy keeps a service that is configured already
    (tensorflow/python/distribute/collective_all_reduce_strategy.py).

    Args:
      num_workers: of the job.
      register_seconds: how long TensorFlow waits for all workers to join.
      heartbeat_seconds: after this long it aborts a process whose peer is silent.
    """
    config = tf.compat.v1.ConfigProto().experimental.coordination_config
    config.coordinated_job_list.add(name="worker", num_tasks=num_workers)
    importlib.import_module(EAGER).context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=register_seconds * 1000,
        heartbeat_timeout_in_ms=heartbeat_seconds * 1000,
        coordinated_jobs=list(config.coordinated_job_list),
    )


def abort_collectives(message: str) -> None:
    """Ends what this process does together with others, now and later, with DeadlineExceededError.

    Args:
      message: Message of that error, which other workers may also get.
    """
    importlib.import_module(EAGER).context().abort_collective_ops(
        tf.errors.DEADLINE_EXCEEDED, message
    )


def tell_other_workers(message: str) -> None:
    """Ends what the other workers do together with this one, with InternalError.

    Args:
      message: Message of that error.
    """
    # Another worker may have been first.
    with contextlib.suppress(tf.errors.OpError):
        importlib.import_module(EAGER).context().report_error_to_cluster(
            tf.errors.INTERNAL, message
        )


def fit_owners() -> dict[str, Any]:
    """Returns what owns the functions of Keras's `fit` that are replaced, by their names."""
    from keras.src.backend.tensorflow import optimizer, trainer
    from keras.src.losses import loss

    methods = KERAS_NAMES["keras.src.backend.tensorflow.trainer.TensorFlowTrainer"]
    return {
        **dict.fromkeys(methods, trainer.TensorFlowTrainer),
        **dict.fromkeys((*LOSS_SCALES, "reduce_values"), loss),
        "__init__": trainer.TFEpochIterator,
        "_all_reduce_sum_gradients": optimizer.TFOptimizer,
        "reduce_per_replica": trainer,
    }


def on_each_step(epoch_iterator: Any, function: Callable[[], None]) -> None:
    """Makes an iterator of Keras over epochs call a function before each step and after the last.

    Args:
      epoch_iterator: A `TFEpochIterator`.
      function: What to call.
    """
    steps = epoch_iterator._enumerate_iterator

    def enumerate_and_call():
        for step in steps():
            function()
            yield step
        function()

    epoch_iterator._enumerate_iterator = enumerate_and_call


def first_epoch(model: keras.Model, given: int) -> int:
    """Returns the epoch with which `fit` begins: one that a callback has restored, or the given."""
    return model._initial_epoch or given


def data_adapter(name: str) -> type:
    """Returns the class with which Keras reads a kind of data, such as "ArrayDataAdapter"."""
    module = next(module for module, names in KERAS_NAMES.items() if name in names)
    return getattr(importlib.import_module(module), name)
