"""The waist of the hourglass: bundles, engines and their builders; knows neither torch nor images."""
