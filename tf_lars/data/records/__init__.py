"""TFRecord shards: the description of a data set, and reading it record by record."""
