"""Reports of a run for its user: progress, TensorBoard, results and pictures."""
