"""What a person edits before a run: settings, recipes and the model catalogue."""
