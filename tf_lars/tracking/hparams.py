"""The settings of a run for TensorBoard's HParams page."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tf_lars.tracking.metric_log import MetricLog

RUN = "validation"
"""Run that gets the settings: TensorBoard looks for their metrics in the same run."""


class HParams(keras.callbacks.Callback):
    """Writes the settings of a run, beside which TensorBoard shows its last validation.

    | tag | meaning | unit | when |
    |---|---|---|---|
    | `_hparams_/experiment` | names and types of the settings, tags of the metrics | | start |
    | `_hparams_/session_start_info` | values of the settings | | start |

    The metrics are scalars that other callbacks write to the run "validation". A resumed run writes
    the settings anew.

    Args:
      log: Log to write to; an earlier callback must have begun it in `on_train_begin`.
      settings: Values by name. Numbers, strings and bools are written as such, None is left out,
        and anything else is written as a string.
      metrics: Tags of the metrics in the run "validation".
    """

    def __init__(
        self,
        log: MetricLog,
        settings: Mapping[str, object],
        metrics: Sequence[str] = ("top1", "loss"),
    ):
        super().__init__()
        self._log = log
        self._settings = {
            name: _plain(value) for name, value in settings.items() if value is not None
        }
        self._metrics = tuple(metrics)

    def on_train_begin(self, logs=None):
        """Writes the settings."""
        from tensorboard.plugins.hparams import summary_v2

        self._log.event(RUN, step=0, summary=_experiment(self._settings, self._metrics))
        self._log.event(RUN, step=0, summary=summary_v2.hparams_pb(self._settings))


def _experiment(settings: Mapping[str, bool | float | str], metrics: Sequence[str]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment()
    for name, value in settings.items():
        # No domain: TensorBoard would hide the values of other runs that are not in it.
        experiment.hparam_infos.add(
            name=name, type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64)
        )
    for tag in metrics:
        experiment.metric_infos.add(
            name=api_pb2.MetricName(tag=tag), display_name=f"validation {tag}"
        )
    summary = Summary()
    summary.value.add(
        tag=metadata.EXPERIMENT_TAG,
        metadata=metadata.create_summary_metadata(
            plugin_data_pb2.HParamsPluginData(experiment=experiment)
        ),
        tensor=metadata.NULL_TENSOR,
    )
    return summary


def _plain(value: object) -> bool | float | str:
    if isinstance(value, (bool, str)):
        return value
    # Numbers of NumPy are among them; JSON, which identifies a run, takes Python's only.
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)
