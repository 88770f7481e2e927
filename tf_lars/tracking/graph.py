"""The network for TensorBoard's graph page."""

from typing import Any

import keras
import tensorflow as tf

from tf_lars.tracking.metric_log import MetricLog


class NetworkGraph(keras.callbacks.Callback):
    """Writes the graph of the model's forward pass on one example, without the training step.

    | tag | meaning | unit | when |
    |---|---|---|---|
    | graph of the run "train" | operations of the forward pass, by layer | | start of a fresh run |

    A model that cannot be traced by itself has no graph. Tracing takes seconds for large models:
    0.3 s for ResNet-50 on two cores.

    Args:
      log: Log to write to; an earlier callback must have begun it in `on_train_begin`.
      spec: Specification of the model's inputs for a batch of one, as `tf.TensorSpec` in the
        structure that the model takes; by default that of a functional or sequential model.
    """

    def __init__(self, log: MetricLog, spec: Any = None):
        super().__init__()
        self._log = log
        self._spec = spec
        self._done = False

    def on_train_batch_begin(self, batch, logs=None):
        """Traces the model and writes the graph, if no step has been taken."""
        if not self._done and batch == 0:
            graph = _trace(self.model, self._spec)
            if graph is not None:
                self._log.event("train", step=0, graph_def=graph)
        self._done = True


def _trace(model: keras.Model, spec: Any) -> bytes | None:
    """Returns the serialised GraphDef of a model; None if it cannot be traced."""
    try:
        spec = _specification(model) if spec is None else spec
        forward = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
        graph = forward.get_concrete_function(spec).graph.as_graph_def(add_shapes=True)
        return graph.SerializeToString()
    except Exception:  # whatever the code of a model raises: the run does not need its picture
        return None


def _specification(model: keras.Model) -> Any:
    def of_one(tensor: keras.KerasTensor) -> tf.TensorSpec:
        return tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype)

    return keras.tree.map_structure(of_one, model.input)
