"""Objectives: losses over features of the source (`agr.attacks.parts.Objective`)."""
