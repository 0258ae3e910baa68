"""Tests of what generated samples are judged by."""
