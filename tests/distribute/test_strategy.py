import pytest
import tensorflow as tf

from tf_lars.cluster.spec import Cluster
from tf_lars.data.autotune import without_autotune
from tf_lars.distribute import strategy
from tf_lars.distribute.replicas import distribute
from tf_lars.errors import InputError


def test_a_worker_that_joins_too_late_is_told_so(monkeypatch):
    tf.constant(1.0)
    monkeypatch.setattr(strategy, "configure_heartbeat", lambda *_, **__: None)
    monkeypatch.setattr(strategy.proxies, "bypass", lambda hosts: None)
    with pytest.raises(InputError, match=r"Call create_strategy\(\) first"):
        strategy.create_strategy(Cluster(("127.0.0.1:20001", "127.0.0.1:20002"), 0))


def test_no_iterator_waits_for_the_tuner_when_it_is_let_go(mirrored):
    def numbers(context):
        assert context.num_replicas_in_sync == 2
        return without_autotune(tf.data.Dataset.range(4).batch(2, drop_remainder=True))

    for _ in range(2):  # distribute() undoes its changes to TensorFlow each time
        iterator = iter(distribute(mirrored, numbers))
        values = [mirrored.experimental_local_results(next(iterator)) for _ in range(2)]
        assert [[list(replica) for replica in batch] for batch in values] == [[[0, 1], [2, 3]]] * 2
        # Each device has its own iterator, over a dataset that TensorFlow makes.
        of_devices = iterator._iterators[0]._iterator._device_iterators
        assert len(of_devices) == 2
        assert [d._dataset.options().autotune.enabled for d in of_devices] == [False, False]

    tuned = iter(mirrored.distribute_datasets_from_function(numbers))
    dataset = tuned._iterators[0]._iterator._device_iterators[0]._dataset
    assert dataset.options().autotune.enabled is None, "TensorFlow no longer needs this workaround"
