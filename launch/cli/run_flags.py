"""Flags that select a checkpoint of a run."""

from absl import flags

from launch.run.load import NEWEST

_GROUP = "Run"


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("model_dir", "", "Folder of a training run.", module_name=_GROUP)
    flags.DEFINE_string(
        "checkpoint",
        NEWEST,
        "newest; best, the kept checkpoint with the highest validation top-1; or the path of a "
        "checkpoint.",
        module_name=_GROUP,
    )
    flags.DEFINE_string(
        "data_dir", "", "Folder of prepared data; by default that of the run.", module_name=_GROUP
    )
