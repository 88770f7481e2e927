"""Small networks for studies and measurements, not for their accuracy.

Each can be named by `--model`, as in --model=models.study_networks:plain_convnet.
"""

import keras
from keras import layers

from models import resnet
from models.input_and_head import image_input, logits, normalise_colours
from tf_lars.training.fused_batch_norm import fuse_batch_norm


def resnet18_w16_unpooled(num_classes: int, image_size: int | None) -> keras.Model:
    """Builds ResNet-18 with a quarter of its channels and no max-pooling: 0.7 M parameters.

    The side of its features is 1/16 of the image's, for images of 64 pixels. Batch normalisation is
    fused, since a study trains on CPUs, where Keras's takes 40 % of a step of this network.
    """
    model = resnet.imagenet_resnet(
        18, num_classes=num_classes, image_size=image_size, width=16, stem_pool=False
    )
    fuse_batch_norm(model)
    return model


def plain_convnet(num_classes: int, image_size: int | None) -> keras.Model:
    """Builds a network of four convolutions with biases and without batch normalisation."""
    image = image_input(image_size)
    x = normalise_colours(image)
    for stage, channels in enumerate((16, 32), start=1):
        for i in (1, 2):
            x = layers.Conv2D(
                channels,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"stage{stage}_conv{i}",
            )(x)
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    return keras.Model(image, logits(x, num_classes), name="plain_convnet")
