"""The platform's version, as `/api/health` and the OpenAPI document show it."""

VERSION = "1.0.0"
