"""Making a model physically smaller, and putting it back: slicing, repair, verification, undo."""
