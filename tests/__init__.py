"""Tests; what several of them use stands in conftest.py."""
