"""Readers of the formats that models write calls in: text in, in any pieces; content and calls out."""
