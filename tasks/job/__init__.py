"""One process's turn at a job: its attempt, its folder, its log, and what it reports."""
