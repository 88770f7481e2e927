"""A small study with synthetic results."""

import dataclasses

from tf_lars.study import trials

STUDY = trials.Study(
    batch_sizes=(64, 256),
    optimizers=("lars", "sgd"),
    tuning_trials=4,
    seeds=(0, 1, 2),
    few_seeds=2,
    main_batch_size=256,
    baseline_batch_size=32,
    epochs=10,
    warmup_epochs=1.0,
    equal_steps_batch_sizes=(64,),
    augmentation="none",
    other_augmentation="pad_crop",
)


def result(trial, held_out=0.5, test=0.5, loss=1.0, curve=((5, 0.25),)):
    """Returns a synthetic result of a trial."""
    return trials.Result(
        trial,
        steps=10,
        diverged=False,
        training_loss=0.25,
        held_out_top1=held_out,
        held_out_loss=loss,
        test_top1=test,
        test_loss=1.25,
        seconds=2.0,
        curve=(*curve, (trial.epochs, test)),
    )


def finished(study=STUDY, **scores):
    """Returns results of all trials of a study, with the test accuracy of each optimizer."""
    results = {}
    while todo := trials.remaining(study, results):
        trial = trials.resolve(study, results, todo[0])
        results[trial] = result(trial, test=scores.get(trial.optimizer, 0.5))
    return results


def changed(**values):
    """Returns the study with some settings changed."""
    return dataclasses.replace(STUDY, **values)
