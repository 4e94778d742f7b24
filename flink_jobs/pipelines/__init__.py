"""One file a pipeline."""
