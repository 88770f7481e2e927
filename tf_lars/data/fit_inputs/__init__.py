"""What Keras's `fit` takes, as data of which each worker reads its own part."""
