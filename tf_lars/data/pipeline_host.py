"""The host on which an input pipeline runs: this process's, or one that this process drives.

On a TPU slice of several hosts, one process makes the pipelines of all. TensorFlow keeps their
Python functions in that process and tells the other hosts that it is at "localhost", where they do
not find it; on the first host, every record would pass through the process. Pipelines of other
hosts are therefore made of TensorFlow's operations alone.
"""

import tensorflow as tf

from tf_lars.errors import InputError


def is_remote() -> bool:
    """Returns whether what is made now runs elsewhere, as in the dataset function of a strategy."""
    here = _address(tf.range(1).device)
    # Without the scope of a strategy, or the one that connecting to a TPU leaves behind.
    with tf.device(None):
        return here != _address(tf.range(1).device)


def refuse_remote(what: str, remedy: str) -> None:
    """Refuses what needs this process, if the pipeline that is made now runs elsewhere.

    Args:
      what: What was given.
      remedy: What to do instead, a sentence.

    Raises:
      InputError: It runs elsewhere.
    """
    if is_remote():
        raise InputError(
            "Hosts that another process drives must read their input with TensorFlow's operations. "
            f"Received: {what}, which needs Python on {_address(tf.range(1).device)}. {remedy}"
        )


def moved(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset for the host whose pipeline is made now.

    A dataset belongs to the host on which it was made; another can have it made anew.
    """
    variant = tf.data.experimental.to_variant(dataset)
    if not is_remote() or _address(variant.device) == _address(tf.range(1).device):
        return dataset
    with tf.device(variant.device):
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, strip_device_assignment=True)
    remade = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    return tf.data.experimental.from_variant(remade, dataset.element_spec)


def _address(device: str) -> str:
    """Returns the job and the task of a device, "/job:worker/replica:0/task:1"."""
    return device.partition("/device:")[0]
