"""What a run leaves behind for people: progress, TensorBoard, results and a picture."""
