"""`train`: shards with labels to a model file."""
