"""LARS: its rule, presets, exclusions, statistics by layer and loss scaling."""
