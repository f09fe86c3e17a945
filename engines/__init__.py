"""The waist of the hourglass: bundles and engines; knows neither torch nor images."""
