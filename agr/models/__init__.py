"""Networks: timm's by name, and the demo's slim copies."""
