"""Kac, diffusion and flow matching on equal terms: one network, one budget, one evaluation."""
