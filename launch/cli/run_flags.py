"""Flags that say which checkpoint of which run."""

from absl import flags

from launch.run.load import NEWEST

_GROUP = "Run"


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("model_dir", "", "Folder of a run of launch.local.", module_name=_GROUP)
    flags.DEFINE_string(
        "checkpoint",
        NEWEST,
        "newest; best, the one with the highest validation top-1 among those kept; or the path of "
        "one.",
        module_name=_GROUP,
    )
    flags.DEFINE_string(
        "data_dir", "", "Prepared data set; by default that of the run.", module_name=_GROUP
    )
