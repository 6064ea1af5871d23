"""The speed of agr beside a bare loop and the field's libraries: `python -m scripts.bench`."""
