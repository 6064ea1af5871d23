"""Rules: changes to modules of the source while gradients are taken (`agr.attacks.parts.Rule`)."""
