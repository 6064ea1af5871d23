"""A paper's claims, judged on its printed tables and on records."""
