"""A study of large batches: optimizers, batch sizes, learning rates and seeds side by side."""
