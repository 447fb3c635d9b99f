"""Shapes of the statistics."""

from api.schemas import ResponseBody, Timestamp


class StatisticsResponse(ResponseBody):
    """Counts over the whole platform."""

    total_models: int
    total_training_jobs: int
    running_training_jobs: int
    completed_training_jobs: int
    total_evaluations: int
    total_generations: int
    timestamp: Timestamp
