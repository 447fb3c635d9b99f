"""Kills, stops, pauses and resumes the running platform at random, and checks that no job notices."""
