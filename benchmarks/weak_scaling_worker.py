"""A worker of benchmarks.weak_scaling: trains ResNet-50 and writes its CPU seconds per step.

    python -m benchmarks.weak_scaling_worker tf_lars|torch '{"batch": 32, ...}' RESULT

Both frameworks train ResNet v1.5 with 25.6 million parameters by SGD with momentum, in float32, on
one batch of noise in memory, so that only the network and the all-reduce are measured. torch uses
its standard DistributedDataParallel over gloo, which overlaps the all-reduce with backpropagation.
"""

import itertools
import json
import os
import sys
import time

RATE, MOMENTUM, CLASSES = 0.1, 0.9, 1000


def train_tf_lars(task):
    """Returns the CPU and wall seconds of each step of `tf_lars.Trainer`."""
    import keras
    import numpy as np
    import tensorflow as tf

    import models
    from tf_lars import Trainer, create_strategy
    from tf_lars.cluster import supervisor

    supervisor.start_heartbeat()
    strategy = create_strategy()
    batch, steps, size = task["batch"], task["steps"], task["image_size"]
    with strategy.scope():
        model = models.create("resnet50", num_classes=CLASSES, image_size=size)
        model.compile(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    class Noise:
        global_batch_size = batch * strategy.num_replicas_in_sync
        shape_changes = ()
        num_examples = global_batch_size * (steps + task["warm_up"])

        def dataset(self, context, first_step, last_step):
            random = np.random.default_rng(0)
            x = 255 * random.random((batch, size, size, 3), np.float32)
            return tf.data.Dataset.from_tensors((x, random.integers(0, CLASSES, batch))).repeat()

    times = Times()
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: times.step())
    Trainer(model, strategy, steps_per_loop=1).fit(Noise(), epochs=1, callbacks=[callback])
    return times.result(task)


def train_torch(task):
    """Returns the CPU and wall seconds of each step of torch's DistributedDataParallel."""
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    batch, size = task["batch"], task["image_size"]
    model = torch_resnet50()
    step_of = model
    if int(os.environ["WORLD_SIZE"]) > 1:
        torch.distributed.init_process_group("gloo")
        step_of = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    loss_of = torch.nn.CrossEntropyLoss()
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (batch,))
    times = Times()
    for _ in range(task["steps"] + task["warm_up"]):
        optimizer.zero_grad()
        loss = loss_of(step_of(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
        times.step()
    return times.result(task)


def torch_resnet50():
    """Returns ResNet-50 v1.5 in torch, in the memory format that is fastest on CPUs."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, before, channels, stride):
            super().__init__()
            after = 4 * channels
            self.path = nn.Sequential(
                *convolution(before, channels, 1),
                nn.ReLU(inplace=True),
                *convolution(channels, channels, 3, stride),
                nn.ReLU(inplace=True),
                *convolution(channels, after, 1),
            )
            same = before == after and stride == 1
            self.shortcut = (
                nn.Identity() if same else nn.Sequential(*convolution(before, after, 1, stride))
            )
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.path(x) + self.shortcut(x))

    def convolution(before, after, kernel, stride=1):
        layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return layer, nn.BatchNorm2d(after)

    layers = [*convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for stage, repeats in enumerate((3, 4, 6, 3)):
        for i in range(repeats):
            channels = 64 * 2**stage
            layers.append(Bottleneck(before, channels, 2 if stage and i == 0 else 1))
            before = 4 * channels
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)
    )
    return model.to(memory_format=torch.channels_last)


class Times:
    """CPU seconds of this process (all threads) and wall seconds, for each step."""

    def __init__(self):
        self.marks = []

    def step(self):
        """Marks the end of a step."""
        self.marks.append((time.process_time(), time.perf_counter()))

    def result(self, task):
        """Returns the seconds of each step after the warm-up."""
        marks = self.marks[task["warm_up"] - 1 :]
        pairs = list(itertools.pairwise(marks))
        return {
            "cpu": [after[0] - before[0] for before, after in pairs],
            "wall": [after[1] - before[1] for before, after in pairs],
        }


def main():
    """Trains according to the command line and writes the result."""
    framework, task, path = sys.argv[1:]
    train = {"tf_lars": train_tf_lars, "torch": train_torch}[framework]
    result = train(json.loads(task))
    with open(path, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
