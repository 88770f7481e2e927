"""A training job as a run of Ray Train: its settings, its workers, and the launcher's part."""
