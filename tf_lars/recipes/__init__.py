"""Published settings by model and batch size, interpolated between published batches."""

from tf_lars.recipes.recipes import (
    IMAGENET_EXAMPLES,
    RULES,
    Recipe,
    alexnet_bn,
    for_model,
    for_run,
    from_baseline,
    optimizer_of_recipes,
    published,
    resnet50,
)

__all__ = [
    "IMAGENET_EXAMPLES",
    "RULES",
    "Recipe",
    "alexnet_bn",
    "for_model",
    "for_run",
    "from_baseline",
    "optimizer_of_recipes",
    "published",
    "resnet50",
]
