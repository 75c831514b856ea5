"""Training data: captions drawn per clip, crops, batches, samplers."""
