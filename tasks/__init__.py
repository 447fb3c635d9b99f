"""The work: thin Prefect tasks (verbs) over plain Python packages (nouns)."""
