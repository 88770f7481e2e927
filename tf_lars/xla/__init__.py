"""The training step as one XLA program: exported, checked, and compiled for absent devices."""
