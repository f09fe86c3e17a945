"""Half precision and FP8: the passes that narrow a stage, and calibration."""
