"""Ray: reports and checkpoints for Ray Train, and training data from shards of Ray Data."""

from tf_lars.integrations.ray.ray_input import RayTrainingInput, read_arrays
from tf_lars.integrations.ray.ray_report import RayReport, restore

__all__ = ["RayReport", "RayTrainingInput", "read_arrays", "restore"]
