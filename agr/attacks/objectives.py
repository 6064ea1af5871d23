"""Objectives: losses over features of the source."""
