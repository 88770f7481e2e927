"""Keras models by name."""

from models.flops import Description, describe, forward_flops
from models.registry import APPLICATIONS, check, create

__all__ = ["APPLICATIONS", "Description", "check", "create", "describe", "forward_flops"]
