"""Entries of a leaderboard: made from records (agr.submit), and reviewed (agr.review)."""
