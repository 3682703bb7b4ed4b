"""`anyloom`: one file a command, imported when it is called, so that `--help` opens at once.

Every AnyloomError becomes one sentence on stderr and its exit code: 0 done, 1 the work failed, 2 wrong use or unusable
input. Knows no work of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib import import_module

import click

from .. import __version__
from ..anygpt_model.errors import AnyloomError

COMMANDS = {
    "demo": ("demo:demo", "The whole once: a picture, a spoken answer and music; stored, dropped, replayed."),
    "say": ("say:say", "One turn: text, pictures and sounds in, any modality out."),
    "chat": ("chat:chat", "A conversation in the terminal."),
    "convert": ("convert:convert", "Convert a folder, glob, CSV or JSONL into a modality."),
    "traces": ("traces:traces", "List, show, replay, verify, fork, compare and keep stored turns."),
    "voices": ("voices:voices", "Save, list and remove the voices that replies may speak with."),
    "models": ("models:models", "List models, fetch published weights, check a folder."),
    "train": ("train:train", "The recipe of the pocket model, stage by stage."),
    "finetune": ("finetune:finetune", "A model of your own from your own pairs, whole or by LoRA."),
    "flows": ("flows:flows", "Serve the batch flows to a Prefect server."),
    "mcp": ("mcp:mcp", "Serve the tool to any MCP client."),
    "doctor": ("doctor:doctor", "Look for what a crash left, and mend it."),
}
DEBUG = "ANYLOOM_DEBUG"
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called; their one-line help is here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's own module, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(f".{module}", __package__), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table above, none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="anyloom")
@click.option("--debug", is_flag=True, envvar=DEBUG, help="Show tracebacks and logs of every level.")
def cli(debug: bool) -> None:
    """Any mix of text, image, speech and music in, any mix out."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    if debug:
        os.environ[DEBUG] = "1"
        logging.getLogger("anyloom").setLevel(logging.DEBUG)
    else:
        _hush()


def _hush() -> None:
    """Progress and remarks are ours to show: the libraries' own bars and advice stay out of the terminal."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advice on kernels, wherever a library imports it


def main(args: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors are told on stderr, each in one sentence."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their hints speak to their own users
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        result = cli.main(args=args, prog_name="anyloom", standalone_mode=False)
    except click.exceptions.Abort:
        return _tell("Stopped.", 1)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AnyloomError as error:
        return _failed(error, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _tell("Stopped.", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        shown = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(error, f"Something unforeseen went wrong ({shown}); --debug shows where.", 1)
    return result if isinstance(result, int) else 0


def _failed(error: Exception, sentence: str, code: int) -> int:
    if os.environ.get(DEBUG) not in (None, "", "0"):
        logging.getLogger(__name__).error("traceback", exc_info=error)
    return _tell(sentence, code)


def _tell(sentence: str, code: int) -> int:
    click.echo(sentence, err=True)
    return code
