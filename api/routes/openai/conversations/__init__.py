"""OpenAI's conversations: items that responses add to."""
