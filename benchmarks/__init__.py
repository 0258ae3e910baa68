"""Speed against baselines, with committed results in `benchmarks/results`."""
