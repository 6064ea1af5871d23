"""From records to tables. Nothing here imports torch or timm."""
