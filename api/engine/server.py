"""The engine's process: `python -m api.engine.server` serves generations on loopback, one process for all models.

The port opens at once and torch is imported behind it, so that a supervisor and the API can see it coming.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from api.engine.schemas import EngineGenerateRequest, EngineGenerateResponse, EngineHealth, ErrorCode
from configs.settings import Settings, get_settings

if TYPE_CHECKING:
    from api.engine.service import TextEngine, TextGeneration

START_SECONDS = 120.0
"""How long a request waits for the libraries to be imported before it is told to come back."""
SHUTDOWN_SECONDS = 1
logger = logging.getLogger("uvicorn.error")
