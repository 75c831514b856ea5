"""Reading audio: decoding, mixing, resampling, checks, augmentation, the waveform cache."""
