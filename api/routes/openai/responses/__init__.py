"""OpenAI's Responses API, over the same chat service: items in, items out, kept for a later request to go on from."""
