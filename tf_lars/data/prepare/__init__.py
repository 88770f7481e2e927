"""From image files to TFRecord shards."""
