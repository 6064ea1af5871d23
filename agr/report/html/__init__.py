"""The report as one HTML file that needs no network: what it shows, and how it is put together.

Everything here is text and bytes that are made elsewhere (`agr.report.report`); this room knows
nothing of cells or records.
"""
