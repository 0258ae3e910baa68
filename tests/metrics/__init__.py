"""Tests of the metrics, file by file."""
