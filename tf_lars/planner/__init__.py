"""Predicts the time to train, and what a larger batch saves, before any machine is rented.

`predict` takes a model, a device family, a number of devices and a batch, and returns the epochs
that the batch needs, the time of a step and the total. Its constants were fitted to published
results (fitted.csv, benchmarks/fit_planner.py). `Hardware` describes devices without published
results, and `calibrate` fits the model to a user's own short runs. `ExamplesNeeded` takes the place
of published epochs on a user's own data.
"""

from tf_lars.planner.calibration import CalibratedDevice, Measurement, calibrate
from tf_lars.planner.communication import Network, network, networks
from tf_lars.planner.devices import (
    FittedDevice,
    Hardware,
    accelerators,
    device,
    peak_flops,
    unmeasured_accelerators,
)
from tf_lars.planner.epochs import critical_batch, epochs_to_target
from tf_lars.planner.examples_needed import ExamplesNeeded, Phase
from tf_lars.planner.prediction import Plan, predict
from tf_lars.planner.published import PublishedResult, published_results
from tf_lars.planner.workloads import TRAINING_PASSES, Workload, workload, workloads

__all__ = [
    "TRAINING_PASSES",
    "CalibratedDevice",
    "ExamplesNeeded",
    "FittedDevice",
    "Hardware",
    "Measurement",
    "Network",
    "Phase",
    "Plan",
    "PublishedResult",
    "Workload",
    "accelerators",
    "calibrate",
    "critical_batch",
    "device",
    "epochs_to_target",
    "network",
    "networks",
    "peak_flops",
    "predict",
    "published_results",
    "unmeasured_accelerators",
    "workload",
    "workloads",
]
