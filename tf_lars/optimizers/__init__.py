"""LARS: its rule, presets, exclusions, per-layer statistics and loss scaling."""
