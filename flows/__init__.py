"""The order of the work: flows, their deployments, and the worker that runs them."""
