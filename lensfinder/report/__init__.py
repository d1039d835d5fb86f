"""Thresholds, candidates and a page out of scores: kernels beside their stage."""
