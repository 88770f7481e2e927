"""One training process, from its settings to its results."""
