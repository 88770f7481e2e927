"""JSON objects with a checksum of their content, which reveals damage and manual changes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its checksum: the SHA-256 of its other entries."""
    entries = json.loads(json.dumps(content))  # as it will be read: lists and names as strings
    return {**entries, CHECKSUM: _digest(entries)}


def is_intact(content: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object, as read, has the entries with which it was sealed."""
    entries = {name: value for name, value in content.items() if name != CHECKSUM}
    return content.get(CHECKSUM) == _digest(entries)


def is_sound(content: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object has the right checksum, or none, as in version 0.1.0."""
    return CHECKSUM not in content or is_intact(content)


def _digest(entries: Mapping[str, Any]) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
