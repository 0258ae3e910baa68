"""Tests of few-step generation."""
