"""Settings that name a run, and a checkpoint of it, for the programs that read one."""

import dataclasses

from launch.run.load import NEWEST, settings_of_run
from launch.run.settings import TrainingSettings
from tf_lars.setting import check, setting

_GROUP = "Run"


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Settings that name a run; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    model_dir: str = setting("Folder of a training run.", "", group=_GROUP)
    data_dir: str = setting(
        "Folder of prepared data; by default that of the run.", "", group=_GROUP
    )
    model: str | None = setting(
        "Model of the run; by default the one that its flags.txt names.", None, group=_GROUP
    )
    trust_model_file: bool = setting(
        "Run the Python code that flags.txt names as the model, wherever it lies. By default only "
        "code of this program and that of --model is run: anyone with write access to the folder "
        "of the run decides what flags.txt names.",
        False,
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)

    def of_run(self) -> TrainingSettings:
        """Returns the settings of the run.

        Raises:
          InputError: There is no such run, or its model is code that is not trusted.
        """
        return settings_of_run(
            self.model_dir,
            self.data_dir,
            model=self.model,
            trust_model_file=self.trust_model_file,
        )


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(RunSettings):
    """Settings that select a checkpoint of a run; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    checkpoint: str = setting(
        "newest; best, the kept checkpoint with the highest validation top-1; or the path of a "
        "checkpoint.",
        NEWEST,
        group=_GROUP,
    )
