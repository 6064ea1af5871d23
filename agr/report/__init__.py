"""Results from records: tables, leaderboards, figures, claims and the report, without torch."""
