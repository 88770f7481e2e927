"""The result log of MLPerf Training, rules 4.0.0, ResNet, written by the package mlperf-logging."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from tf_lars import files
from tf_lars.data import order
from tf_lars.tracking.mlperf_rules import TARGET_ACCURACY, MLPerfRun


class MLPerfLog(keras.callbacks.Callback):
    """Writes the result log of a run; to be used on the chief only.

    | key | meaning | when |
    |---|---|---|
    | `init_start` | the process has begun its work, at the time `init_start` | first |
    | `cache_clear` | false: this program clears no caches of the system | first |
    | `submission_benchmark` | resnet; the actual model and data are its metadata | first |
    | `submission_*` | division, organization (`org`), platform, status | first |
    | `seed`, `global_batch_size` | as in the settings | first |
    | `train_samples`, `eval_samples` | examples of the data | first |
    | `gradient_accumulation_steps` | micro-batches of a device per step | first |
    | `model_bn_span` | examples that batch normalisation normalises together | first |
    | `opt_name` | lars or sgd | first |
    | `O_opt_base_learning_rate` | rate after the warm-up; O is `lars` or `sgd` | first |
    | `O_opt_end_learning_rate` | rate at the end of the polynomial decay | first |
    | `O_opt_learning_rate_decay_poly_power` | its power | first |
    | `O_opt_learning_rate_decay_steps` | its length: all steps less those of the warm-up | first |
    | `opt_learning_rate_decay_schedule` | in the place of these three: another decay | first |
    | `O_opt_momentum`, `O_opt_weight_decay` | as in the settings | first |
    | `lars_opt_learning_rate_warmup_epochs` | epochs of the warm-up, of LARS | first |
    | `opt_learning_rate_warmup_epochs` | epochs of the warm-up, of SGD | first |
    | `lars_epsilon` | epsilon of LARS | first |
    | `init_stop`, `run_start` | the model is built, no image has been read | training begins |
    | `block_start`, `block_stop` | `first_epoch_num`, `epoch_count` | between evaluations |
    | `epoch_start`, `epoch_stop` | `epoch_num`, counted from 1 | around an epoch's steps |
    | `eval_start`, `eval_stop` | `epoch_num`, epochs trained so far | around an evaluation |
    | `eval_accuracy` | top-1 over all validation examples; `epoch_num` | after an evaluation |
    | `run_stop` | `status`: success or aborted, then with a `reason` | see below |

    `epoch_num` of an evaluation has a fraction if a callback has ended training within an epoch.
    "First" means in `on_train_begin`, before `init_stop`, when it is known whether the run resumes.

    As in the benchmark, the log ends with the first evaluation that reaches `target_accuracy`, with
    the status success; the rest of the training is not part of the result. In any other case the
    status is aborted: the target was not reached, training was stopped, or it ended with an error.
    The target is that of ImageNet. It applies to other data sets as well, because the compliance
    checker requires it of every log of this benchmark; with them, success says no more than that.

    The rules do not cover resumption, and a log of the rest of a run would show too short a time. A
    run that resumes from a checkpoint writes nothing and prints a warning. The log of its beginning
    stays as it is, aborted or without `run_stop`. A run that starts afresh renames an existing file
    by appending the time to its name.

    Args:
      path: Path of the log, local or remote.
      run: What the log says about the run.
      init_start: When the process began its work, in seconds since 1970.
      micro_batches: Function that returns the number of parts in which a device processes its
        share of the batch; called when training begins, since it may be found by trial.
      is_resumed: Function that returns whether training resumes from a checkpoint; called when
        training begins.
      accuracy: Name of the metric of top-1 accuracy.
      target_accuracy: Accuracy that ends the run with success.

    Raises:
      InputError: From `on_train_begin`, if the file cannot be written.
      ModuleNotFoundError: If mlperf-logging is not installed.
    """

    def __init__(
        self,
        path: str,
        run: MLPerfRun,
        *,
        init_start: float,
        micro_batches: Callable[[], int] = lambda: 1,
        is_resumed: Callable[[], bool] = lambda: False,
        accuracy: str = "top1",
        target_accuracy: float = TARGET_ACCURACY,
    ):
        super().__init__()
        from mlperf_logging.mllog import mllog

        self._mllog = mllog
        self._path = path
        self._run = run
        self._init_start = init_start
        self._micro_batches = micro_batches
        self._is_resumed = is_resumed
        self._accuracy = accuracy
        self._target = target_accuracy
        ends = order.epoch_end_steps(run.train_samples, run.global_batch_size, run.epochs)
        # Of epochs that end in the same step, only the last one is trained.
        self._epoch_of = {end: epoch for epoch, end in enumerate(ends, start=1)}
        self._end_of = {epoch: end for end, epoch in self._epoch_of.items()}
        self._handler: _Lines | None = None
        self._logger: Any = None
        self._reset()

    def _reset(self) -> None:
        self._step = self._epoch = self._done = 0
        self._block: int | None = None
        self._in_epoch = False
        self._outcome = ""
        self._began = 0.0

    def on_train_begin(self, logs=None):
        """Writes what describes the run and starts the clock, unless the run is resumed."""
        self._reset()
        if self._is_resumed():
            print(
                "warning: MLPerf's rules do not cover resumed runs; this run adds nothing to "
                f"{self._path!r}. Start afresh with --resume=never for a result.",
                flush=True,
            )
            return
        with files.writing(self._path):
            _move_aside(self._path)
            self._handler = _Lines(self._path)
        # A logger without a name is known to nobody else: what the package configures for its own,
        # which prints to standard output, has no effect on it.
        logger = logging.Logger("mlperf_log", logging.INFO)
        logger.addHandler(self._handler)
        root = re.escape(str(Path(__file__).parents[2]))
        self._logger = self._mllog.MLLogger(logger, default_stack_offset=2, root_dir=root)
        self._start("init_start", time_ms=int(self._init_start * 1000))
        self._event("cache_clear", value=False)
        for key, value, metadata in self._run.events(self._micro_batches()):
            self._event(key, value=value, metadata=dict(metadata))
        self._end("init_stop")
        self._start("run_start")
        self._began = time.time()

    def on_epoch_begin(self, epoch, logs=None):
        """Writes the start of an epoch, and of the block of epochs up to the next evaluation."""
        self._epoch = int(epoch) + 1
        if self._block is None:
            self._block = self._done + 1
            count = self._next_evaluation() - self._done
            self._start(
                "block_start", metadata={"first_epoch_num": self._block, "epoch_count": count}
            )
        self._in_epoch = True
        self._start("epoch_start", metadata={"epoch_num": self._epoch})

    def on_train_batch_end(self, batch, logs=None):
        """Counts the steps."""
        self._step = int(batch) + 1

    def on_test_begin(self, logs=None):
        """Writes the end of the epoch and of the block, and the start of an evaluation."""
        self._end_epoch()
        if self._block is not None:
            self._end("block_stop", metadata={"first_epoch_num": self._block})
            self._block = None
        self._start("eval_start", metadata={"epoch_num": self._epochs_trained()})

    def on_test_end(self, logs=None):
        """Writes the accuracy, and ends the log with success if it is that of the target."""
        accuracy = float((logs or {})[self._accuracy])
        where = {"epoch_num": self._epochs_trained()}
        self._event("eval_accuracy", value=accuracy, metadata=where)
        self._end("eval_stop", metadata=where)
        if accuracy >= self._target:
            self._stop("success", f"accuracy {accuracy:.4f} after epoch {where['epoch_num']:g}")

    def on_epoch_end(self, epoch, logs=None):
        """Writes the end of an epoch without an evaluation."""
        self._end_epoch()
        self._done = self._epoch

    def on_train_end(self, logs=None):
        """Ends a log without success, and prints how the log has ended."""
        self.abort(f"the accuracy has not reached {self._target:g}")
        if self._outcome:
            print(f"MLPerf log {self._path}: {self._outcome}", flush=True)

    def abort(self, reason: str) -> None:
        """Ends the log with the status aborted, if it has begun and has not ended.

        Args:
          reason: Why training has ended.
        """
        self._stop("aborted", reason, {"reason": reason})

    def _stop(self, status: str, words: str, more: Mapping[str, str] | None = None) -> None:
        if self._handler is None:
            return
        self._end("run_stop", metadata={"status": status, **(more or {})})
        seconds = time.time() - self._began
        self._outcome = f"{status}, {words}, {seconds:,.1f} s after run_start"
        if self._handler.is_broken:
            self._outcome = "incomplete, since it could not be written"
        self._handler.close()
        self._handler = self._logger = None

    def _end_epoch(self) -> None:
        if self._in_epoch:
            self._in_epoch = False
            self._end("epoch_stop", metadata={"epoch_num": self._epoch})

    def _epochs_trained(self) -> float:
        if self._step >= self._end_of[self._epoch]:
            return self._epoch
        return self._step * self._run.global_batch_size / self._run.train_samples

    def _next_evaluation(self) -> int:
        """Returns the next epoch that will be evaluated."""
        interval = self._run.epochs_between_evaluations
        return next(
            epoch
            for epoch in self._end_of
            if epoch > self._done
            and (epoch // interval > self._done // interval or epoch == self._run.epochs)
        )

    def _event(self, key: str, **fields: Any) -> None:
        if self._logger:
            self._logger.event(key, **fields)

    def _start(self, key: str, **fields: Any) -> None:
        if self._logger:
            self._logger.start(key, **fields)

    def _end(self, key: str, **fields: Any) -> None:
        if self._logger:
            self._logger.end(key, **fields)


class _Lines(logging.Handler):
    """Writes each message as a line of a file; a failure is a warning, since training continues.

    After a failure nothing more is written. The log then has no `run_stop`, which checkers require.

    Args:
      path: Path of the file, local or remote.
    """

    def __init__(self, path: str):
        super().__init__(logging.INFO)
        self._path = path
        self._file = files.open_file(path, "w")
        self.is_broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line, so that others can read it immediately."""
        if self.is_broken:
            return
        try:
            self._file.write(record.getMessage() + "\n")
            self._file.flush()
        except Exception as error:  # of TensorFlow too, if the file is remote
            self.is_broken = True
            print(
                f"warning: the MLPerf log {self._path!r} cannot be written ({str(error)[:300]}) "
                "and stays incomplete; training continues.",
                flush=True,
            )

    def close(self) -> None:
        """Closes the file."""
        try:
            self._file.close()
        except Exception:
            self.is_broken = True
        super().close()


def _move_aside(path: str) -> None:
    """Renames a file, if it exists, by appending the time to its name; a device stays."""
    if not (files.exists(path) if files.is_remote(path) else os.path.isfile(path)):
        return
    aside = name = f"{path}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while files.exists(aside):
        aside, number = f"{name}-{number}", number + 1
    files.rename(path, aside)
