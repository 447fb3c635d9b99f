"""OpenAI's files: data sets to train on, and the step metrics of ended jobs."""
