"""JPEG files to square uint8 images, in TensorFlow's graph: crop, then resize.

The crop is decoded alone, which saves a third of the time. INTEGER_ACCURATE costs nothing and
agrees with other decoders; TensorFlow's default shifts the mean by most of a grey level. Where a
crop is at least two or four times as large as what it becomes, and that is at most
`SCALED_DECODING_SIZE` pixels, the decoder itself scales it by 1/2 or 1/4. On ImageNet's photos that
brings a random box of 64 pixels 8 dB nearer to one resized with antialiasing, and saves 6 % of the
CPU time; at 128 pixels 4 dB and 2 %.
"""

import tensorflow as tf

# Szegedy et al. 2015, with the area of MLPerf's ResNet-50.
REFERENCE_BOX = {
    "min_object_covered": 0.1,
    "aspect_ratio_range": (3 / 4, 4 / 3),
    "area_range": (0.08, 1.0),
    "max_attempts": 10,
    "use_image_if_no_bounding_boxes": True,
}

SCALED_DECODING_SIZE = 128
"""Largest side of the result, in pixels, for which the decoder scales: above, it gains nothing."""


def random_box(encoded: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """Returns a random box of an image, of the reference's kind: uint8 `[size, size, 3]`.

    Args:
      encoded: a JPEG file, scalar string.
      size: side of the result in pixels.
      key: int64 `[2]`; the box is a function of it and of the image's shape.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(encoded),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=key,
        **REFERENCE_BOX,
    )
    return _crop_and_resize(encoded, begin[0], begin[1], extent[0], extent[1], size)


def centre_crop(encoded: tf.Tensor, size: int, fraction: float) -> tf.Tensor:
    """Returns the centre of an image: uint8 `[size, size, 3]`.

    Args:
      encoded: a JPEG file, scalar string.
      size: side of the result in pixels.
      fraction: side of the crop over the image's short side.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
    height, width = shape[0], shape[1]
    side = tf.cast(tf.round(fraction * tf.cast(tf.minimum(height, width), tf.float32)), tf.int32)
    side = tf.maximum(side, 1)
    return _crop_and_resize(encoded, (height - side) // 2, (width - side) // 2, side, side, size)


def _crop_and_resize(encoded, top, left, height, width, size: int) -> tf.Tensor:
    window = tf.stack([top, left, height, width])
    if size <= SCALED_DECODING_SIZE:
        short = tf.minimum(height, width)
        # The window of a scaled decoding is in its own, larger pixels.
        crop = tf.switch_case(
            tf.cast(short >= 2 * size, tf.int32) + tf.cast(short >= 4 * size, tf.int32),
            [
                lambda: _decode_window(encoded, window, 1),
                lambda: _decode_window(encoded, window // 2, 2),
                lambda: _decode_window(encoded, window // 4, 4),
            ],
        )
    else:
        crop = _decode_window(encoded, window, 1)
    resized = tf.image.resize(crop, [size, size], method="bilinear")
    image = tf.saturate_cast(tf.round(resized), tf.uint8)
    return tf.ensure_shape(image, [size, size, 3])


def _decode_window(encoded, window, ratio: int) -> tf.Tensor:
    return tf.image.decode_and_crop_jpeg(
        encoded, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
    )
