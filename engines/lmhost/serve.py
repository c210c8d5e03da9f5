"""The LM host's process: its options, its engine, its HTTP server."""

from __future__ import annotations

import argparse
import logging
import os
import sys

import torch
import uvicorn
from transformers.utils.logging import disable_progress_bar

from engines import logs
from engines.base_models import BaseModelError, resolve
from engines.lmhost import tracing
from engines.lmhost.core import Limits
from engines.lmhost.engine import Engine, EngineOptions
from engines.lmhost.errors import HostError
from engines.lmhost.server import create_app
from engines.rendering import RendererError

KEY_VARIABLE = "LMHOST_API_KEY"
# The HTTP thread and the engine's thread share one interpreter lock; the engine must not wait 5 ms for it after each kernel.
SWITCH_SECONDS = 0.0005


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; exit status 2 where the base model cannot be served."""
    options = _parser().parse_args(argv)
    logs.configure("lm-host", as_json=options.log_format == "json")
    tracing.configure()
    if options.threads:
        torch.set_num_threads(options.threads)
    sys.setswitchinterval(SWITCH_SECONDS)
    disable_progress_bar()
    try:
        engine = Engine(resolve(options.base), _engine_options(options))
        app = create_app(engine, os.environ.get(KEY_VARIABLE) or None)
    except (BaseModelError, HostError, RendererError) as error:
        logging.getLogger(__name__).error("the LM host cannot start: %s", error)
        return 2
    server = {"host": options.host, "port": options.port, "timeout_graceful_shutdown": 10}
    uvicorn.run(app, **server, log_config=None, log_level="warning", access_log=False)
    engine.close()
    tracing.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engines.lmhost", description=f"The key is read from {KEY_VARIABLE}.")
    parser.add_argument("--base", required=True, help="a name that engines.base_models knows")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-rows", type=int, default=Limits.max_rows, help="rows that run at a time")
    parser.add_argument("--pass-tokens", type=int, default=Limits.pass_tokens, help="new tokens a forward pass")
    parser.add_argument("--cache-mb", type=int, default=Limits.cache_bytes >> 20, help="prefix cache")
    parser.add_argument("--log-format", choices=("console", "json"), default="console", help="of the lines on standard error")
    return parser


def _engine_options(options: argparse.Namespace) -> EngineOptions:
    limits = Limits(max_rows=options.max_rows, pass_tokens=options.pass_tokens, cache_bytes=options.cache_mb << 20)
    return EngineOptions(options.dtype, options.device, limits)
