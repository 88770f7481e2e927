"""Large-batch studies: compare optimizers, batch sizes, learning rates and seeds."""
