"""The training loop: steps, evaluation, checkpoints and what a model must satisfy."""
