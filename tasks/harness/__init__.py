"""lm-eval, an optional extra: tasks from local files, measured on a model that is already in memory."""
