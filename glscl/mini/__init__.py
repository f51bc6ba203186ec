"""The built-in benchmark: generated clips, their captions, and the mini CLIP."""
