"""The endpoints that OpenAI's SDK knows, over the same models and engine as the documented API."""
