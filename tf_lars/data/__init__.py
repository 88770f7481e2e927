"""From image files to batches: TFRecord shards, the input pipeline, the embedded digits."""

AUGMENTATIONS = ("none", "reference")
"""Names of the augmentations that `tf_lars.data.imagenet.TrainingInput` knows."""
