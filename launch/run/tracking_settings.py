"""The settings of what a run records about itself."""

import dataclasses

from tf_lars.setting import Rule, one_of, setting, within

TRACKING = "Tracking"
"""Group of these settings in `--help`."""

MLPERF_DIVISIONS = ("closed", "open")
MLPERF_STATUSES = ("onprem", "cloud", "preview", "research")

_STEPS = within(1, 1_000_000_000)


@dataclasses.dataclass(frozen=True)
class TrackingSettings:
    """What a run records; part of `TrainingSettings`. Nothing here changes its result.

    Raises:
      InputError: A setting is out of range.
    """

    tracking_every: int | None = setting(
        "Write metrics after every this many steps. By default after each call of the loop, about "
        "every two seconds.",
        None,
        rule=_STEPS,
        group=TRACKING,
        identifies_run=False,
    )
    layers_every: int | None = setting(
        "Write each layer's trust ratio, weight norm and update after every this many steps. By "
        "default a hundred times in a run.",
        None,
        rule=_STEPS,
        group=TRACKING,
        identifies_run=False,
    )
    noise_scale: bool = setting(
        "Estimate the gradient noise scale from the gradients of devices and micro-batches.",
        True,
        group=TRACKING,
        identifies_run=False,
    )
    profile_steps: tuple[int, ...] = setting(
        "Steps to profile, such as 20,30; each is written as a trace for TensorBoard.",
        (),
        rule=_STEPS,
        group=TRACKING,
        identifies_run=False,
    )
    mlperf_log: str | None = setting(
        "File for the result log of MLPerf Training, rules 4.0.0; needs mlperf-logging, the extra "
        "mlperf.",
        None,
        rule=Rule("the path of a file", bool),
        group=TRACKING,
        identifies_run=False,
    )
    mlperf_division: str = setting(
        f"Division in that log: {' or '.join(MLPERF_DIVISIONS)}.",
        "closed",
        rule=one_of(*MLPERF_DIVISIONS),
        group=TRACKING,
        identifies_run=False,
    )
    mlperf_organization: str = setting(
        "Submitting organization in that log.", "reference", group=TRACKING, identifies_run=False
    )
    mlperf_platform: str | None = setting(
        "Name of the system in that log; by default the number and the name of the devices.",
        None,
        group=TRACKING,
        identifies_run=False,
    )
    mlperf_status: str = setting(
        f"Status of the system in that log: one of {', '.join(MLPERF_STATUSES)}.",
        "research",
        rule=one_of(*MLPERF_STATUSES),
        group=TRACKING,
        identifies_run=False,
    )
