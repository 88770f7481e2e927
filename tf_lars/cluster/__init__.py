"""Cluster discovery, rendezvous and process supervision, without TensorFlow."""
