"""KerasCV backbones by class name, with random weights and a classifier on top.

KerasCV 0.9 stores a backbone's settings with its weights online and downloads them even for random
weights. Here the settings are listed, so nothing is downloaded; tests compare them with the
parameter counts that KerasCV publishes for its presets. Video backbones (`VideoSwin...`) are
excluded, since they do not take images.
"""

from typing import TYPE_CHECKING, Any

from tf_lars.errors import InputError

if TYPE_CHECKING:
    import keras


def _scaled(cls: str, common: dict[str, Any], variants: dict[str, tuple[float, float]]):
    """Returns the backbones of a family that differ in width and depth coefficients."""
    return {
        cls.replace("Backbone", f"{variant}Backbone"): (
            cls,
            {**common, "width_coefficient": width, "depth_coefficient": depth},
        )
        for variant, (width, depth) in variants.items()
    }


def _resnets(version: str):
    """Returns ResNet-18 to 152, version "" (1) or "V2".

    KerasCV's version 2 strides in the last block of each stack but keeps the strides (1, 2, 2, 2),
    so each stack works at the resolution of the previous one: ResNet-50 costs 23.1 GFLOPs at 224
    pixels, three times as much as version 1.
    """
    blocks = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    return {
        f"ResNet{depth}{version}Backbone": (
            f"ResNet{version}Backbone",
            {
                "stackwise_filters": [64, 128, 256, 512],
                "stackwise_blocks": list(repeats),
                "stackwise_strides": [1, 2, 2, 2],
                "block_type": "basic_block" if depth < 50 else "block",
            },
        )
        for depth, repeats in blocks.items()
    }


_EFFICIENTNET_SIZES = {
    "B0": (1.0, 1.0),
    "B1": (1.0, 1.1),
    "B2": (1.1, 1.2),
    "B3": (1.2, 1.4),
    "B4": (1.4, 1.8),
    "B5": (1.6, 2.2),
    "B6": (1.8, 2.6),
    "B7": (2.0, 3.1),
}
# Tan and Le 2019, table 1.
_EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
}


def _efficientnet_v2(
    repeats: list[int], filters: list[int], width: float = 1.0, depth: float = 1.0
):
    """Returns an EfficientNetV2 (Tan and Le 2021, table 4): three fused stages, then unfused."""
    others = len(repeats) - 3
    return (
        "EfficientNetV2Backbone",
        {
            "width_coefficient": width,
            "depth_coefficient": depth,
            "stackwise_kernel_sizes": [3] * len(repeats),
            "stackwise_num_repeats": repeats,
            "stackwise_input_filters": filters[:-1],
            "stackwise_output_filters": filters[1:],
            "stackwise_expansion_ratios": [1, 4, 4, 4] + [6] * (others - 1),
            "stackwise_squeeze_and_excite_ratios": [0.0] * 3 + [0.25] * others,
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1][: len(repeats)],
            "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * others,
        },
    )


_V2_B = ([1, 2, 2, 3, 5, 8], [32, 16, 32, 48, 96, 112, 192])


def _mobilenet_v3(rows: list[tuple[float, int, int, int, bool, str]]):
    """Returns a MobileNetV3; a row is (expansion, filters, kernel, stride, SE, activation)."""
    expansion, filters, kernel, stride, squeeze, activation = map(list, zip(*rows, strict=True))
    return (
        "MobileNetV3Backbone",
        {
            "stackwise_expansion": expansion,
            "stackwise_filters": filters,
            "stackwise_kernel_size": kernel,
            "stackwise_stride": stride,
            "stackwise_se_ratio": [0.25 if wanted else None for wanted in squeeze],
            "stackwise_activation": activation,
        },
    )


def _csp_darknet(channels: int, depth: int):
    return (
        "CSPDarkNetBackbone",
        {
            "stackwise_channels": [channels, 2 * channels, 4 * channels, 8 * channels],
            "stackwise_depth": [depth, 3 * depth, 3 * depth, depth],
        },
    )


def _yolo_v8(channels: list[int], depth: int):
    return (
        "YOLOV8Backbone",
        {"stackwise_channels": channels, "stackwise_depth": [depth, 2 * depth, 2 * depth, depth]},
    )


def _vit_det(embed_dim: int, depth: int, num_heads: int):
    return (
        "ViTDetBackbone",
        {
            "embed_dim": embed_dim,
            "depth": depth,
            "mlp_dim": 4 * embed_dim,
            "num_heads": num_heads,
            "global_attention_indices": [depth // 4 * i - 1 for i in range(1, 5)],
        },
    )


def _mit(embedding_dims: list[int], depths: list[int]):
    return "MiTBackbone", {"embedding_dims": embedding_dims, "depths": depths}


_WIDE_MIT = [64, 128, 320, 512]
_RELU, _SWISH = "relu", "hard_swish"

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    **_resnets(""),
    **_resnets("V2"),
    **{
        f"DenseNet{depth}Backbone": ("DenseNetBackbone", {"stackwise_num_repeats": repeats})
        for depth, repeats in {
            121: [6, 12, 24, 16],
            169: [6, 12, 32, 32],
            201: [6, 12, 48, 32],
        }.items()
    },
    **_scaled(
        "EfficientNetV1Backbone",
        {**_EFFICIENTNET, "stackwise_squeeze_and_excite_ratios": [0.25] * 7},
        _EFFICIENTNET_SIZES,
    ),
    **_scaled(
        "EfficientNetLiteBackbone",
        _EFFICIENTNET,
        {variant: _EFFICIENTNET_SIZES[variant] for variant in ("B0", "B1", "B2", "B3", "B4")},
    ),
    "EfficientNetV2B0Backbone": _efficientnet_v2(*_V2_B),
    "EfficientNetV2B1Backbone": _efficientnet_v2(*_V2_B, 1.0, 1.1),
    "EfficientNetV2B2Backbone": _efficientnet_v2(*_V2_B, 1.1, 1.2),
    "EfficientNetV2B3Backbone": _efficientnet_v2(*_V2_B, 1.2, 1.4),
    "EfficientNetV2SBackbone": _efficientnet_v2(
        [2, 4, 4, 6, 9, 15], [24, 24, 48, 64, 128, 160, 256]
    ),
    "EfficientNetV2MBackbone": _efficientnet_v2(
        [3, 5, 5, 7, 14, 18, 5], [24, 24, 48, 80, 160, 176, 304, 512]
    ),
    "EfficientNetV2LBackbone": _efficientnet_v2(
        [4, 7, 7, 10, 19, 25, 7], [32, 32, 64, 96, 192, 224, 384, 640]
    ),
    # Howard et al. 2019, tables 2 and 1.
    "MobileNetV3SmallBackbone": _mobilenet_v3(
        [
            (1, 16, 3, 2, True, _RELU),
            (72 / 16, 24, 3, 2, False, _RELU),
            (88 / 24, 24, 3, 1, False, _RELU),
            (4, 40, 5, 2, True, _SWISH),
            (6, 40, 5, 1, True, _SWISH),
            (6, 40, 5, 1, True, _SWISH),
            (3, 48, 5, 1, True, _SWISH),
            (3, 48, 5, 1, True, _SWISH),
            (6, 96, 5, 2, True, _SWISH),
            (6, 96, 5, 1, True, _SWISH),
            (6, 96, 5, 1, True, _SWISH),
        ]
    ),
    "MobileNetV3LargeBackbone": _mobilenet_v3(
        [
            (1, 16, 3, 1, False, _RELU),
            (4, 24, 3, 2, False, _RELU),
            (3, 24, 3, 1, False, _RELU),
            (3, 40, 5, 2, True, _RELU),
            (3, 40, 5, 1, True, _RELU),
            (3, 40, 5, 1, True, _RELU),
            (6, 80, 3, 2, False, _SWISH),
            (2.5, 80, 3, 1, False, _SWISH),
            (2.3, 80, 3, 1, False, _SWISH),
            (2.3, 80, 3, 1, False, _SWISH),
            (6, 112, 3, 1, True, _SWISH),
            (6, 112, 3, 1, True, _SWISH),
            (6, 160, 5, 2, True, _SWISH),
            (6, 160, 5, 1, True, _SWISH),
            (6, 160, 5, 1, True, _SWISH),
        ]
    ),
    "CSPDarkNetTinyBackbone": _csp_darknet(48, 1),
    "CSPDarkNetSBackbone": _csp_darknet(64, 1),
    "CSPDarkNetMBackbone": _csp_darknet(96, 2),
    "CSPDarkNetLBackbone": _csp_darknet(128, 3),
    "CSPDarkNetXLBackbone": _csp_darknet(170, 4),
    # KerasCV has no classes for these sizes; the names are those of its presets.
    "yolo_v8_xs_backbone": _yolo_v8([32, 64, 128, 256], 1),
    "yolo_v8_s_backbone": _yolo_v8([64, 128, 256, 512], 1),
    "yolo_v8_m_backbone": _yolo_v8([96, 192, 384, 576], 2),
    "yolo_v8_l_backbone": _yolo_v8([128, 256, 512, 512], 3),
    "yolo_v8_xl_backbone": _yolo_v8([160, 320, 640, 640], 3),
    "MiTB0Backbone": _mit([32, 64, 160, 256], [2, 2, 2, 2]),
    "MiTB1Backbone": _mit(_WIDE_MIT, [2, 2, 2, 2]),
    "MiTB2Backbone": _mit(_WIDE_MIT, [3, 4, 6, 3]),
    "MiTB3Backbone": _mit(_WIDE_MIT, [3, 4, 18, 3]),
    "MiTB4Backbone": _mit(_WIDE_MIT, [3, 8, 27, 3]),
    "MiTB5Backbone": _mit(_WIDE_MIT, [3, 6, 40, 3]),
    "VGG16Backbone": ("VGG16Backbone", {"include_top": False}),
    "ViTDetBBackbone": _vit_det(768, 12, 12),
    "ViTDetLBackbone": _vit_det(1024, 24, 16),
    "ViTDetHBackbone": _vit_det(1280, 32, 16),
}
"""KerasCV class and its arguments, by name of the backbone."""


def create(name: str, *, num_classes: int, image_size: int) -> "keras.Model":
    """Builds a backbone with global average pooling and a float32 classifier.

    KerasCV's first layer scales colours from 0 to 255 to the range from 0 to 1; `ViTDet` then
    normalises them with ImageNet's statistics.

    Args:
      name: A key of `BACKBONES`.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels.

    Raises:
      InputError: KerasCV is not installed, or cannot build the backbone for this size.
    """
    import keras

    from models.input_and_head import image_input, logits, unbuildable

    library = keras_cv_models(name)
    cls, arguments = BACKBONES[name]
    image = image_input(image_size)
    try:
        backbone = getattr(library, cls)(
            include_rescaling=True,
            input_tensor=image,
            input_shape=(image_size, image_size, 3),
            **arguments,
        )
    except (ValueError, TypeError) as error:
        raise unbuildable(
            name, image_size, error, "a larger --image_size, a multiple of 32"
        ) from error
    x = keras.layers.GlobalAveragePooling2D(name="average_pool")(backbone.output)
    return keras.Model(image, logits(x, num_classes), name=name)


def keras_cv_models(name: str) -> Any:
    """Returns the module `keras_cv.models`; `name`, a backbone, is for the message.

    Raises:
      InputError: KerasCV is not installed.
    """
    try:
        import keras_cv
    except ImportError as error:
        raise InputError(
            f"keras_cv/{name} needs the package keras-cv ({error}). Install it with "
            "`pip install keras-cv==0.9.0`."
        ) from error
    return keras_cv.models
