"""Distribution strategies, collective operations and Keras's `fit` on several workers."""
