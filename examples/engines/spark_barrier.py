"""Trains with PySpark: the tasks of a barrier stage are the workers.

PYTHONPATH=. spark-submit --conf spark.python.worker.reuse=false \\
    examples/engines/spark_barrier.py [WORKERS] [EPOCHS]

A barrier stage needs a slot for every task at the same time. TensorFlow joins a process to one
cluster only, so Python's workers must not be reused for another stage.
"""

import socket
import sys

from pyspark import BarrierTaskContext
from pyspark.sql import SparkSession

from examples import fit_with_lars
from tf_lars import create_strategy
from tf_lars.cluster.discovery import resolve_cluster

WORKERS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
EPOCHS = int(sys.argv[2]) if len(sys.argv) > 2 else 20


def strategy():
    """Returns the strategy of this task, whose workers meet at an address of the first one."""
    task = BarrierTaskContext.get()
    with socket.create_server(("", 0)) as free:
        own = f"{socket.gethostname()}:{free.getsockname()[1]}"
    meet = task.allGather(own)
    ranks = {"task_index": task.partitionId(), "num_workers": len(meet)}
    return create_strategy(resolve_cluster(coordinator=meet[0], **ranks))


def main():
    """Runs the stage, and prints the accuracy of each worker."""
    context = SparkSession.builder.appName("tf-lars").getOrCreate().sparkContext
    stage = context.parallelize(range(WORKERS), WORKERS).barrier()
    epochs = EPOCHS
    accuracies = stage.mapPartitions(lambda _: [fit_with_lars.train(strategy(), epochs)]).collect()
    print("test accuracy", *(f"{one:.4f}" for one in accuracies))


if __name__ == "__main__":
    main()
