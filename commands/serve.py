"""``make serve``: answer requests for translations over HTTP."""

import argparse
import ipaddress
import os
import re
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

from adapter_hub import hub_name
from commands.cli.errors import user_errors
from commands.cli.recipes import base_source
from commands.translate import number_or_auto
from inference.backends import check_precision
from limits import LIMITS, Range, check_range

if TYPE_CHECKING:
    from fastapi import FastAPI

TOKEN = "ONE_STEP_TOKEN"
MIB = 1 << 20
KEEP_ALIVE = 75  # seconds of an idle connection; nginx keeps it for 60, and closing it first can fail a request


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step serve",
        description="Translate images that come over HTTP: POST /translate takes an image and returns its translation; "
        "/docs describes all addresses.",
        epilog=f"A token that requests have to bring is read from the environment: {TOKEN}.",
        allow_abbrev=False,
    )
    p.add_argument(
        "--ckpt",
        required=True,
        help="run folder, adapter folder, .ckpt, released .pkl, exported model or pocket:NAME; several, joined by "
        "commas; or a folder of runs. The first is the default",
    )
    add_common_arguments(p, port=8000)
    p.add_argument(
        "--batch", type=number_or_auto, help="images translated together, at most; auto (default): by size and device"
    )
    p.add_argument("--models", type=int, default=2, help="adapters in memory, at most (default %(default)s)")
    p.add_argument(
        "--requests", type=int, default=32, help="received, waiting or answered at once, at most (default %(default)s)"
    )
    p.add_argument("--seconds", type=float, default=60.0, help="for a translation, at most (default %(default)g)")
    p.add_argument("--mib", type=float, default=32.0, help="of a request's body, at most (default %(default)g)")
    p.add_argument("--megapixels", type=float, default=50.0, help="of an image, at most (default %(default)g)")
    return p


def add_common_arguments(p: argparse.ArgumentParser, port: int) -> None:
    """Add the arguments of `make serve` and `make demo`."""
    p.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default %(default)s)")
    p.add_argument("--port", type=int, default=port, help="0: a free one (default %(default)s)")
    p.add_argument("--precision", default="auto", help="float32, bfloat16, or auto (default %(default)s)")
    p.add_argument("--base", help="pocket, sd-turbo, folder or hub id; a .pkl needs it, else the one trained on")
    p.add_argument("--device", default="auto", help="auto (an accelerator if there is one), cpu, or a device of torch")


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    check_options(options)
    token = os.environ.get(TOKEN) or None
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise ValueError("TOKEN may have letters, digits and punctuation of ASCII, but no spaces.")
    options.base = base_source(options.base)
    from serving.catalogue import find_models

    found = find_models(options.ckpt)
    for path in found.values():
        if hub_name(path) is not None:
            print(f"Adapter: {path}", flush=True)
    listener = listen(options.host, options.port)
    try:
        from serving.app import Server, create_app
        from serving.requests import Limits
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed: pip install -e '.[serve]' adds what serving needs."
        ) from error
    from serving.models import LoadedModels

    models = LoadedModels(found, options.models, options.precision, options.device, options.base)
    translator = models.get(models.names[0])
    limits = Limits(
        requests=options.requests,
        seconds=options.seconds,
        body=int(options.mib * MIB),
        pixels=int(options.megapixels * 1e6),
    )
    app = create_app(Server(models, limits, options.batch), token)
    print(f"Adapters: {', '.join(models.names)} (at most {models.limit} in memory)")
    print(f"Default: {models.names[0]}, {translator.description}")
    if token is None:
        warn_if_open(listener, "set TOKEN, or leave HOST out")
    serve(app, listener, int(options.seconds) + 1, "Listening on {} (Ctrl-C ends)")
    print("Stopped.")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse values out of range.

    Raises:
        ValueError: names the option and its range.
    """
    check_precision(options.precision)
    check_range("PORT", options.port, Range(0, 65535, whole=True))
    if options.batch is not None:
        check_range("BATCH", options.batch, LIMITS["eval_batch_size"])
    for name, wanted in (
        ("models", Range(1, whole=True)),
        ("requests", Range(1, 10_000, whole=True)),
        ("seconds", Range(1, 3600)),
        ("mib", Range(0, 1024, above=True)),
        ("megapixels", Range(0, 100, above=True)),
    ):
        check_range(f"--{name}", getattr(options, name), wanted)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: there is no such address here, or its port is taken; one line.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"Cannot listen on HOST={host} PORT={port}: {why}. Give another PORT or HOST.") from error


def warn_if_open(listener: socket.socket, advice: str) -> None:
    """Warn where other machines can reach a socket."""
    host = listener.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        print(f"warning: everybody who reaches {host} can use this server: {advice}.", file=sys.stderr)


def serve(app: "FastAPI", listener: socket.socket, seconds: int, line: str, log_level: str = "warning") -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        app: the application.
        listener: as `listen` returned it.
        seconds: that requests which run then have to end.
        line: printed with the address in place of ``{}``, once signals end this function rather than the process.
        log_level: of uvicorn; at "critical" it is silent on connections that had to be cut.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level=log_level,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=seconds,
    )
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn's own handlers count while it runs; at its end it sends the signal again, which must not be an error then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    host, port = listener.getsockname()[:2]
    print(line.format(f"http://{f'[{host}]' if ':' in host else host}:{port}"), flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    raise SystemExit(main())
