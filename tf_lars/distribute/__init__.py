"""Strategies, what their replicas do together, and Keras's `fit` on several workers."""
