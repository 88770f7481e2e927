"""Settings that select a checkpoint of a run, for the programs that read one."""

import dataclasses

from launch.run.load import NEWEST
from tf_lars.setting import check, setting

_GROUP = "Run"


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """Settings that select a checkpoint of a run; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    model_dir: str = setting("Folder of a training run.", "", group=_GROUP)
    checkpoint: str = setting(
        "newest; best, the kept checkpoint with the highest validation top-1; or the path of a "
        "checkpoint.",
        NEWEST,
        group=_GROUP,
    )
    data_dir: str = setting(
        "Folder of prepared data; by default that of the run.", "", group=_GROUP
    )

    def __post_init__(self):
        check(self)
