"""Size and cost of any Keras model: trainable parameters and FLOPs of a forward pass."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from models.freezing import frozen_parameters

if TYPE_CHECKING:
    import keras

Shape = list[int]

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


@dataclasses.dataclass(frozen=True)
class Description:
    """Size and cost of a model.

    Attributes:
      parameters: Number of trainable parameters.
      frozen_parameters: Number of parameters that `models.freezing` excludes from training.
      forward_flops: Floating-point operations of a forward pass per image; see `forward_flops`.
    """

    parameters: int
    forward_flops: int
    frozen_parameters: int = 0

    def __str__(self) -> str:
        frozen = f" and {self.frozen_parameters:,} frozen" if self.frozen_parameters else ""
        return (
            f"{self.parameters:,} trainable{frozen} parameters, "
            f"{_significant(self.forward_flops / 1e9)} GFLOPs per image, forward"
        )


def describe(model: "keras.Model", image_size: int) -> Description:
    """Returns a model's size, and its cost for images of a given size."""
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Description(parameters, forward_flops(model, image_size), frozen_parameters(model))


def forward_flops(model: "keras.Model", image_size: int) -> int:
    """Returns the FLOPs of a forward pass for one image.

    A multiply-add is two FLOPs: ResNet-50 at 224 pixels has 4.09 G multiply-adds, 8.18 GFLOPs.
    Convolutions and matrix products count, as in published figures; normalisation, activations,
    pooling and additions do not. Training costs about three times as much: the gradients with
    respect to inputs and to weights each cost as much as a forward pass.

    Operations are counted in the model's TensorFlow graph, which covers subclassed models and
    products within a layer (attention). Those in a loop of the graph (`tf.while_loop`) are not
    counted.

    Args:
      model: Model with inputs `[batch, image_size, image_size, 3]`.
      image_size: Side of the square image in pixels.
    """
    import tensorflow as tf

    forward = tf.function(lambda image: model(image, training=False), autograph=False)
    image = tf.TensorSpec((1, image_size, image_size, 3), tf.float32)
    graph = forward.get_concrete_function(image).graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function for function in graph.library.function}
    return 2 * _multiply_adds(graph.node, {}, functions)


def _multiply_adds(
    nodes: Iterable[Any], arguments: Mapping[str, Shape], functions: Mapping[str, Any]
) -> int:
    """Returns the multiply-adds of a graph's nodes, including the functions that they call."""
    shapes = {name: [shape] for name, shape in arguments.items()}
    nodes = list(nodes)
    for node in nodes:
        outputs = node.attr["_output_shapes"].list.shape
        shapes[node.name] = [[dim.size for dim in shape.dim] for shape in outputs]

    def shape_of(reference: str) -> Shape:
        # "node", "node:1" in a graph, "node:output:1" in a function.
        name, *position = reference.split(":")
        return shapes[name][int(position[-1]) if position else 0]

    total = 0
    for node in nodes:
        if node.op in _CALLS:
            function = functions[node.attr["f"].func.name]
            names = [argument.name for argument in function.signature.input_arg]
            inputs = [reference for reference in node.input if not reference.startswith("^")]
            given = {
                name: shape_of(reference) for name, reference in zip(names, inputs, strict=True)
            }
            total += _multiply_adds(function.node_def, given, functions)
        elif node.op in _COUNTS:
            inputs = [shape_of(reference) for reference in node.input if reference[0] != "^"]
            total += _COUNTS[node.op](node, inputs, shape_of(node.name))
    return total


def _convolution(node, inputs: list[Shape], output: Shape) -> int:
    # A filter is [height, width, input channels per group, output channels].
    return math.prod(output) * math.prod(inputs[1][:-1])


def _depthwise_convolution(node, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[1][:2])


def _transposed_convolution(node, inputs: list[Shape], output: Shape) -> int:
    # The inputs are the output's shape, the filter and the image; each pixel uses the filter once.
    return math.prod(inputs[2]) * math.prod(inputs[1][:-1])


def _matrix_product(node, inputs: list[Shape], output: Shape) -> int:
    transposed = node.attr["transpose_a"].b or node.attr["adj_x"].b
    return math.prod(output) * inputs[0][-2 if transposed else -1]


def _einsum(node, inputs: list[Shape], output: Shape) -> int:
    terms, result = node.attr["equation"].s.decode().split("->")
    contracted = {}
    for term, shape in zip(terms.split(","), inputs, strict=True):
        front, _, back = term.partition("...")
        labels = [*zip(front, shape, strict=False), *zip(back[::-1], shape[::-1], strict=False)]
        contracted.update({label: size for label, size in labels if label not in result})
    return math.prod(output) * math.prod(contracted.values())


_COUNTS = {
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise_convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "MatMul": _matrix_product,
    "BatchMatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "Einsum": _einsum,
}


def _significant(value: float) -> str:
    """Formats a number with three significant digits and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"
