"""Videos and captions: the built-in benchmark, frame sampling, loading and caching."""
