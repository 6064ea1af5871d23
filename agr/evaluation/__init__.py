"""One cell: selection, crafting, scoring, and what is checked before and after."""
