"""Tests of the judging of images."""
