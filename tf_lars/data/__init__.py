"""Input: order, decoding, augmentation and batches; records/ and prepare/ below it."""
