"""Tests, file by file as the library."""
