"""Judging of generated images: a classifier and the scores that it gives."""
