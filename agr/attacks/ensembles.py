"""Strategies: ways to join the gradients of an ensemble."""
