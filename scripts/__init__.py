"""Programs around the package: tables, figures, reports, the benchmark and the demo suite."""
