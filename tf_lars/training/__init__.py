"""Training loop, evaluation, checkpoints and checks of models."""
