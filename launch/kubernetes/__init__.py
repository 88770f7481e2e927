"""JobSets for GPU nodes and for TPU slices on GKE."""
